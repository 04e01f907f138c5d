"""What a page must be on any screen: as wide as its window, its controls within reach, its text legible."""

TOO_WIDE = """() => {
    const outside = element => {
        const { left, right, width, height } = element.getBoundingClientRect()
        return width && height && (left < -0.5 || right > innerWidth + 0.5)
    }
    const name = element => `${element.tagName} ${element.className} ${element.textContent.trim().slice(0, 40)}`
    const found = [...document.querySelectorAll(
        '.bar a, .bar strong, .bar button, .dashboard :is(input, select, output), main summary, main h1, main h2, footer a')]
        .filter(outside).map(name)
    for (const nav of document.querySelectorAll('.bar nav'))
        if (nav.scrollWidth > nav.clientWidth + 1) found.push(`navigation, ${nav.scrollWidth} > ${nav.clientWidth}`)
    if (document.documentElement.scrollWidth > innerWidth) found.push(`page, ${document.documentElement.scrollWidth}`)
    return found
}"""
"""What stands outside the window, or can only be reached by moving the page sideways."""

FAINT = """() => {
    const parse = color => {
        const parts = (color.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number)
        return [...parts.slice(0, 3), parts[3] ?? 1]
    }
    const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a)]
    const ground = element => {
        const layers = []
        for (let e = element; e; e = e.parentElement) {
            const layer = parse(getComputedStyle(e).backgroundColor)
            if (layer[3] > 0) layers.push(layer)
            if (layer[3] === 1) break
        }
        return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255])
    }
    const light = color => {
        const [r, g, b] = color.slice(0, 3).map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const ratio = (one, other) => {
        const [low, high] = [light(one), light(other)].sort((a, b) => a - b)
        return (high + 0.05) / (low + 0.05)
    }
    const faint = new Map()
    const note = (text, color, under) => {
        const seen = over(color, under), value = ratio(seen, under)
        if (value < 4.5) faint.set(`${text.trim().slice(0, 40)}`, `${value.toFixed(2)}: ${color} on ${under.map(Math.round)}`)
    }
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const element = node.parentElement
        if (!node.textContent.trim() || !element.checkVisibility({ visibilityProperty: true })) continue
        if (element.closest('svg, script, style, option, .katex-mathml, .js-plotly-plot')) continue
        note(node.textContent, parse(getComputedStyle(element).color), ground(element))
    }
    // Of a figure: the text around the marks, on the page's own background.
    const around = '.xtick text, .ytick text, .gtitle, .xtitle, .ytitle, .x2title, .y2title, .legendtext, .colorbar text'
    for (const text of document.querySelectorAll(around)) {
        if (!text.textContent.trim()) continue
        const style = getComputedStyle(text), fill = parse(style.fill)
        fill[3] *= Number(style.opacity) * Number(style.fillOpacity)
        note(text.textContent, fill, ground(text.closest('.js-plotly-plot')))
    }
    return Object.fromEntries(faint)
}"""
"""Texts whose contrast with what lies behind them is below 4.5 to 1, the least that WCAG 2.2 allows."""
