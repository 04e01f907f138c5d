// What a report page does once it is open: draw the plots, set the formulas, list the contents, show and hide code.
"use strict";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
let colors = {}; // of the page's theme: to read one, the browser works out the styles of the whole page
const css = (name) => (colors[name] ??= getComputedStyle(document.documentElement).getPropertyValue(name).trim());

// No button of a plot sends it to another machine.
const NARROW = 560; // pixels of a figure below which it is drawn for a phone
const PANELS = 680; // pixels below which the panels of a figure stand one above the other
const COLUMNS = 3; // of a table that fits on a phone
const CROWDED = 800; // pixels below which the titles of several panels are small
const SMALL = 11;
const SMALLEST = 9.5; // of a figure's table on paper
const LABEL = 26; // characters of a bar's label on a line, on a phone
const ROW_LABEL = 16; // and of the label of a row of cells
const LETTER = 6.2; // pixels of a letter of such a label, about
const LINE = 14; // and of a line of several in a table there
const HEADER = 30; // and of the table's header
const ASIDE = 110; // and of its width, for margins and the ends of its cells
const PAPER = 700; // pixels across a printed page
const SHEET = 960; // and of its height, at most, for a figure
const WORD = 12; // characters that a cell of a table keeps on one line
const SENTENCE = 60; // and from which on its column is wide, whatever the screen
const LEGIBLE = 4.6; // contrast of text with the page, of 4.5 that WCAG 2.2 asks for
const CONFIG = { responsive: true, displaylogo: false, showTips: false, showSendToCloud: false };
// Marks of WebGL as sharp as the screen is: plotly makes them for one of twice as many pixels, and four times as slow to read.
CONFIG.plotGlPixelRatio = Math.min(2, Math.max(1, devicePixelRatio));
// They have smooth edges of their own. To smooth the whole canvas as well takes as long again without a graphics card.
const { getContext } = HTMLCanvasElement.prototype;
HTMLCanvasElement.prototype.getContext = function (kind, options) {
  return getContext.call(this, kind, kind === "2d" ? options : { ...options, antialias: false });
};

// The figures of the page by the elements that show them, to be drawn again when the reader changes between light and dark.
const figures = new Map();

// The pixels across each place of a figure, kept up to date: to ask for them lays out the whole page.
const rooms = new Map();
const watch = new ResizeObserver((places) => {
  for (const { target } of places) {
    const [before, now] = [rooms.get(target), target.clientWidth];
    if (!now) continue; // hidden: it keeps the width that it had
    rooms.set(target, now);
    if (kindOf(before) === kindOf(now) || matchMedia("print").matches) continue;
    for (const [plot, figure] of figures) if (plot.parentElement === target) show(plot, figure);
  }
});
// Figures of these widths are arranged in the same way.
const kindOf = (width) => [NARROW, PANELS, CROWDED].filter((least) => width >= least).length;

function roomOf(place) {
  if (!rooms.has(place)) watch.observe(place);
  if (!rooms.get(place)) rooms.set(place, place.clientWidth); // a hidden place has none until it is shown
  return rooms.get(place);
}

function show(target, figure) {
  figures.set(target, figure);
  const { template, ...own } = figure.layout ?? {};
  const layout = { ...structuredClone(own), template }; // plotly changes all of it but the template
  let data = figure.data ?? [];
  // A figure that shows the page behind it takes the page's colour of text; one with a ground of its own keeps its own.
  const ground = layout.paper_bgcolor ?? layout.template?.layout?.paper_bgcolor;
  if (ground === "rgba(0,0,0,0)") {
    layout.font = { ...layout.font, color: css("--text") };
    for (const note of layout.annotations ?? []) {
      if (note.font?.color) note.font.color = legible(note.font.color);
      if (!note.showarrow && note.yref !== "paper") note.bgcolor ??= css("--page") + "cc"; // no line strikes it through
    }
    data = data.map(legibleTrace);
    for (const axis of [...axesOf(layout, "x"), ...axesOf(layout, "y")]) {
      const ticktext = layout[axis].ticktext?.map?.((text) => String(text).replace(/(?<=color:)#[0-9a-f]{6}/gi, legible));
      if (ticktext) layout[axis] = { ...layout[axis], ticktext };
    }
  }
  // A table of many columns is moved sideways on a phone: narrower, its cells would hold a word or less.
  const broad = data.some((trace) => trace.type === "table" && trace.cells?.values?.length > COLUMNS);
  const room = roomOf(target.parentElement);
  const width = broad ? Math.max(room, PANELS) : room;
  target.style.minWidth = broad ? `${PANELS}px` : "";
  target.parentElement.classList.toggle("moves", width > room);
  const tables = data.some((trace) => trace.type === "table"); // next to which a panel needs more room
  if (width < (tables ? CROWDED : PANELS) && !matchMedia("print").matches) data = stack(layout, data, width);
  else if (width < CROWDED && axesOf(layout, "x").length > 1) {
    for (const note of layout.annotations ?? []) {
      if (note.yref === "paper") note.font = { ...note.font, size: Math.min(SMALL, note.font?.size ?? SMALL) };
    }
  }
  if (width < NARROW) data = fold(layout, data, width);
  else if (width < CROWDED) foldTitle(layout, width - 64);
  data = data.flatMap(byColor);
  if (target.dataset.height) layout.height = Number(target.dataset.height); // that of a slide
  // Plotly fills the height of its place, which is that of the figure.
  target.style.height = `${layout.height ?? layout.template?.layout?.height ?? 450}px`;
  const kind = [width, layout.height, ...new Set(data.map((trace) => trace.type))].join();
  keepMargins(target, layout, kind);
  return Plotly.react(target, data, layout, target._context ? undefined : CONFIG).then(() => {
    const { l, r, t, b } = target._fullLayout._size;
    margins.get(target).sizes.set(kind, { l, r, t, b });
  });
}

const KINDS = { i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array };
const FEW = 8; // colours of marks that are drawn as a trace each

// The numbers of an array as plotly's JSON has it.
function numbers(value) {
  if (!value?.bdata) return value;
  return new KINDS[value.dtype](Uint8Array.from(atob(value.bdata), (letter) => letter.charCodeAt(0)).buffer);
}

// Whether a scale is of steps: from each stop to the next one the same colour.
const stepped = (scale) => Array.isArray(scale) && scale.length % 2 === 0 && scale.every(([, color], place) => color === scale[place ^ 1][1]);

// Marks of WebGL whose numbers stand for a few colours, as a trace for each: plotly works out the colour of every mark of a trace
// by itself, from the scale to text and back, which takes most of the time of a figure of a thousand. The last are on top.
const ofColors = new WeakMap();

function byColor(trace) {
  if (!ofColors.has(trace)) ofColors.set(trace, split(trace));
  return ofColors.get(trace);
}

function split(trace) {
  const { color, size, colorscale, cmin, cmax, ...rest } = trace.marker ?? {};
  const known = trace.type === "scattergl" && !rest.showscale && stepped(colorscale) && cmax > cmin;
  const codes = known && numbers(color);
  const found = codes?.length ? [...new Set(codes)].sort((a, b) => a - b) : [];
  if (!found.length || found.length > FEW) return [trace];
  const columns = Object.entries({ x: trace.x, y: trace.y, text: trace.text, customdata: trace.customdata, size });
  const whole = Object.fromEntries(columns.map(([name, value]) => [name, numbers(value)]));
  return found.map((code, number) => {
    const places = [];
    codes.forEach((other, place) => other === code && places.push(place));
    const of = (value) => (value?.length === codes.length && typeof value !== "string" ? places.map((place) => value[place]) : value);
    const { size: sizes, ...own } = Object.fromEntries(Object.entries(whole).map(([name, value]) => [name, of(value)]));
    const single = Array.isArray(sizes) && new Set(sizes).size === 1 ? sizes[0] : sizes;
    const share = (code - cmin) / (cmax - cmin);
    const [, here] = colorscale.findLast(([end]) => end <= share + 1e-9);
    const once = number ? { showlegend: false } : {}; // in the legend
    return { ...trace, ...own, ...once, marker: { ...rest, color: here, size: single } };
  });
}

// The margins of each figure as it was drawn last, by its kind. Another of the kind gets them, if it needs no larger ones: axes
// stay where they are, and plotly does not draw all of it a second time, as it does when labels need another margin than it
// began with.
const margins = new Map();

function keepMargins(target, layout, kind) {
  if (!margins.has(target)) margins.set(target, { sizes: new Map() });
  const kept = margins.get(target);
  const last = kept.sizes.get(kind);
  // Plotly would begin with what the labels of the figure before needed.
  if (kept.kind !== kind && target._fullLayout) target._fullLayout._pushmargin = {};
  kept.kind = kind;
  if (!last) return;
  const margin = { ...layout.template?.layout?.margin, ...layout.margin };
  layout.margin = { ...margin, ...Object.fromEntries([..."lrtb"].map((side) => [side, Math.max(margin[side] ?? 80, last[side])])) };
}

// Whether a figure has several panels, or a table.
const panelled = ({ data, layout }) => axesOf(layout, "x").length > 1 || data.some((trace) => trace.type === "table");
const axesOf = (layout, letter) => Object.keys(layout).filter((name) => RegExp(`^${letter}axis\\d*$`).test(name));
const SPAN = 0.9; // the share of a figure's width from which on a panel has a row of its own
const LEAST = 150; // pixels of the height of a panel in a row of its own
const PICTURE = 0.36; // the height of a picture, in widths of the figure
const UNDER = 50; // pixels below a panel: its ticks
const TITLE = 26; // and those of the title of its axis
const NOTE = 17; // pixels of a line above a panel
const HEAD = 48; // pixels of the figure's title above all

// The panels of a figure one above the other; pictures of numbers, two in a row. Returns the traces, whose places have changed.
function stack(layout, data, width) {
  const template = layout.template?.layout ?? {};
  const margin = { t: 80, b: 80, ...template.margin, ...layout.margin };
  const inner = (layout.height ?? template.height ?? 450) - margin.t - margin.b;
  const whole = [0, 1];
  const panels = axesOf(layout, "x").filter((name) => !layout[name].overlaying).map((x) => {
    const y = `yaxis${(layout[x].anchor ?? "y").slice(1)}`;
    const inside = data.filter((trace) => (trace.xaxis ?? "x") === x.replace("axis", ""));
    const picture = inside.length > 0 && inside.every((trace) => trace.type === "heatmap");
    return { x, y, picture, inside, across: layout[x].domain ?? whole, along: layout[y]?.domain ?? whole };
  });
  const tables = data.filter((trace) => trace.type === "table").map((trace) => ({
    table: trace, inside: [trace], across: trace.domain?.x ?? whole, along: trace.domain?.y ?? whole,
  }));
  panels.push(...tables);
  if (panels.every(({ across: [left, right] }) => right - left >= SPAN)) return data;
  panels.sort((a, b) => b.along[1] - a.along[1] || a.across[0] - b.across[0]);
  // A note is the title of the panel below it.
  const notes = (layout.annotations ?? []).filter((note) => note.yanchor === "bottom");
  for (const panel of panels) {
    const { x, y, across, along } = panel;
    const [ofX, ofY] = [x, y].map((axis) => axis && `${axis.replace("axis", "")} domain`);
    panel.titles = notes.filter((note) => (note.xref === "paper" && note.yref === "paper"
      ? note.x >= across[0] - 0.01 && note.x <= across[1] + 0.01 && Math.abs(note.y - along[1]) < 0.06
      : note.xref === ofX && note.yref === ofY && note.y >= 1));
  }
  const rows = [];
  for (const panel of panels) {
    const last = rows.at(-1);
    if (panel.picture && last?.length === 1 && last[0].picture) last.push(panel);
    else rows.push([panel]);
  }
  let height = 0;
  for (const row of rows) {
    const lines = Math.max(0, ...row.flatMap(({ titles }) => titles.map(({ text }) => text.split("<br>").length)));
    const ticks = row.some(({ x }) => x && layout[x].showticklabels !== false && layout[x].visible !== false);
    row.above = lines ? NOTE * lines + 8 : row === rows[0] ? 0 : 8;
    if (row === rows[0]) row.above = Math.max(0, row.above + (layout.title?.text ? HEAD : 0) - margin.t);
    const own = Math.max(...row.map(({ along: [low, high] }) => inner * (high - low)));
    row.height = row[0].picture ? Math.min(own, PICTURE * width) : row[0].table ? tableHeight(row[0].table, own, width) : Math.max(own, LEAST);
    row.below = (ticks ? UNDER : 12) + (row.some(({ x }) => x && layout[x].title?.text) ? TITLE : 0);
    height += row.above + row.height + (row === rows.at(-1) ? 0 : row.below);
  }
  let top = 0;
  const moved = new Map();
  for (const row of rows) {
    top += row.above;
    const along = [Math.max(0, 1 - (top + row.height) / height), 1 - top / height];
    row.forEach((panel, place) => {
      const across = panel.picture ? [[0, 0.44], [0.56, 1]][place] : whole;
      for (const note of panel.titles.filter(({ xref }) => xref === "paper")) {
        const share = (note.x - panel.across[0]) / (panel.across[1] - panel.across[0]);
        if (panel.picture) note.font = { ...note.font, size: SMALL };
        Object.assign(note, { x: across[0] + share * (across[1] - across[0]), y: along[1] + ((note.y - panel.along[1]) * inner) / height });
      }
      Object.assign(panel, { across, along });
      if (panel.table) return moved.set(panel.table, { ...panel.table, domain: { x: across, y: along } });
      layout[panel.x] = { ...layout[panel.x], domain: across };
      layout[panel.y] = { ...layout[panel.y], domain: along, side: "left" };
    });
    top += row.height + row.below;
  }
  // A scale stands next to the panels that it belongs to.
  const beside = (bar, has) => {
    const here = panels.filter(({ inside }) => inside.some(has)).map(({ along }) => along);
    if (!here.length) return bar;
    const [low, high] = [Math.min(...here.map(([end]) => end)), Math.max(...here.map(([, end]) => end))];
    return { ...bar, len: high - low, y: (low + high) / 2, yanchor: "middle" };
  };
  for (const name of Object.keys(layout).filter((key) => key.startsWith("coloraxis"))) {
    layout[name] = { ...layout[name], colorbar: beside(layout[name].colorbar, (trace) => trace.coloraxis === name) };
  }
  const foot = rows.at(-1)[0].table ? rows.at(-1).below : margin.b; // a table has no axis below it
  layout.margin = { ...layout.margin, b: foot };
  layout.height = Math.round(height + margin.t + foot);
  if (layout.title?.text) layout.title = { ...layout.title, ...atTheTop(layout) };
  return data.map((trace) => {
    if (trace.type !== "heatmap" || trace.showscale === false || trace.coloraxis) return moved.get(trace) ?? trace;
    return { ...trace, colorbar: beside(trace.colorbar, (other) => other === trace) };
  });
}

const channels = (color) => [1, 3, 5].map((place) => parseInt(color.slice(place, place + 2), 16));

// WCAG's relative luminance.
function luminance(color) {
  const [r, g, b] = color.map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

// A colour of text, moved towards that of the page's text until it can be read on the page.
function legible(color) {
  if (!/^#[0-9a-f]{6}$/i.test(color)) return color;
  const [page, text] = [channels(css("--page")), channels(css("--text"))];
  let mixed = channels(color);
  while (contrast(mixed, page) < LEGIBLE && contrast(mixed, text) > 1.1) {
    mixed = mixed.map((value, place) => value + 0.15 * (text[place] - value));
  }
  return `#${mixed.map((value) => Math.round(value).toString(16).padStart(2, "0")).join("")}`;
}

// A trace with the text of its marks, or of its cells, in colours that can be read, and its intervals in that of text: the
// template's grey is lost on a bar.
function legibleTrace(trace) {
  const { color } = trace.textfont ?? {};
  for (const bars of ["error_x", "error_y"]) {
    if (trace[bars]) trace = { ...trace, [bars]: { ...trace[bars], color: css("--text") } };
  }
  if (typeof color === "string" && trace.type === "scatter") return { ...trace, textfont: { ...trace.textfont, color: legible(color) } };
  if (trace.type !== "table") return trace;
  const part = (cells) => {
    const colors = (value) => (Array.isArray(value) ? value.map(colors) : legible(value));
    return cells?.font?.color ? { ...cells, font: { ...cells.font, color: colors(cells.font.color) } } : cells;
  };
  return { ...trace, header: part(trace.header), cells: part(trace.cells) };
}

// On a phone: the legend at the foot of the figure, in a height of its own, and long titles, names and labels on several lines.
function fold(layout, data, width) {
  const template = layout.template?.layout ?? {};
  let height = layout.height ?? template.height ?? 450;
  const foot = { orientation: "h", x: 0, xanchor: "left", yref: "container", y: 0.01, yanchor: "bottom", maxheight: 0.9 };
  layout.legend = { ...layout.legend, ...foot, entrywidth: undefined };
  layout.margin = { ...template.margin, ...layout.margin, l: 48, r: 8, autoexpand: true };
  if (layout.title?.text) layout.title = { ...layout.title, xref: "container", x: 0, xanchor: "left" };
  layout.modebar = { ...layout.modebar, orientation: "v" }; // a title has the whole width
  data = data.map((trace) => (trace.texttemplate && trace.type === "heatmap" ? { ...trace, showscale: false } : trace)); // no room
  const scales = data.some((trace) => (trace.showscale ?? trace.type === "heatmap") || trace.marker?.showscale);
  const labelled = data.filter((trace) => trace.orientation === "h" || trace.type === "heatmap");
  const labels = [...new Set(labelled.flatMap((trace) => trace.y ?? []))];
  const most = labelled.some((trace) => trace.type === "heatmap") ? ROW_LABEL : LABEL;
  const texts = labels.map((label) => wrapped(String(label), most));
  const left = Math.max(layout.margin.l, LETTER * Math.max(0, ...texts.flat().map((line) => line.length)));
  const across = width - left - (scales ? 102 : 16);
  for (const axis of Object.keys(layout).filter((name) => /^[xy]axis/.test(name) && layout[name].title?.text)) {
    const text = wrapped(layout[axis].title.text, Math.floor((axis[0] === "x" ? across : 300) / 9)).join("<br>");
    layout[axis] = { ...layout[axis], title: { ...layout[axis].title, text } };
  }
  const [low, high] = layout.xaxis?.range ?? [];
  for (const note of (layout.annotations ?? []).filter((note) => note.showarrow !== false && note.ax)) {
    const share = low === undefined ? 0.5 : (note.x - low) / (high - low); // of the width, left of it
    const side = Math.sign(0.5 - share) || Math.sign(note.ax); // where there is more room
    const room = across * (side > 0 ? 1 - share : share) - 24;
    const text = wrapped(note.text, Math.max(8, Math.floor(room / 6))).join("<br>");
    Object.assign(note, { text, ax: 18 * side, xanchor: side > 0 ? "left" : "right", font: { ...note.font, size: SMALL } });
  }
  if (texts.some((lines) => lines.length > 1)) {
    const ticktext = texts.map((lines) => lines.join("<br>"));
    layout.yaxis = { ...layout.yaxis, tickmode: "array", tickvals: labels, ticktext, tickfont: { size: SMALL } };
    height = Math.max(height, 120 + 15 * texts.length * Math.max(...texts.map((lines) => lines.length)));
  }
  const named = data.filter((trace) => trace.showlegend !== false);
  const names = named.map((trace) => wrapped(trace.name ?? "", Math.floor((width - 56) / 7.5)));
  const lines = names.flat().length;
  layout.height = height + (layout.showlegend !== false && named.length > 1 ? 25 * named.length + 16 * (lines - named.length) : 0);
  foldTitle(layout, width);
  return data.map((trace) => {
    if (trace.type === "table") {
      const { values, font } = trace.cells;
      return { ...trace, cells: { ...trace.cells, values: breaking(values), font: { ...font, size: SMALL } } };
    }
    return named.includes(trace) ? { ...trace, name: names[named.indexOf(trace)].join("<br>") } : trace;
  });
}

// The height of a table on a phone, where its texts take several lines. Three quarters as high again at most: its rows can be
// moved.
function tableHeight({ cells, columnwidth }, own, width) {
  if (width >= NARROW) return own;
  const columns = cells?.values ?? [];
  const shares = columns.map((_, place) => columnwidth?.[place] ?? 1);
  const letters = (width - ASIDE) / LETTER / shares.reduce((sum, share) => sum + share, 0); // of a line, for each share
  let height = HEADER;
  for (let row = 0; row < Math.max(0, ...columns.map(({ length }) => length)); row++) {
    const lines = Math.max(...columns.map((column, place) => Math.ceil(String(column[row]).length / (letters * shares[place]))));
    height += lines > 1 ? LINE * lines + 16 : cells.height ?? 20;
  }
  return Math.max(own, Math.min(1.75 * own, height));
}

// The texts of a table, with spaces at which a line may end.
const breaking = (value) => (Array.isArray(value) ? value.map(breaking) : String(value).replaceAll("\u00a0", " "));

// A title from the figure's upper edge, in as many lines as it takes.
function foldTitle(layout, width) {
  if (!layout.title?.text) return;
  const lines = wrapped(layout.title.text, Math.floor(width / 9));
  layout.title = { ...layout.title, ...atTheTop(layout) };
  if (lines.length === 1) return;
  layout.title = { ...layout.title, text: lines.join("<br>"), font: { ...layout.title.font, size: 15 } };
  const top = layout.margin?.t ?? layout.template?.layout?.margin?.t ?? 56;
  layout.margin = { ...layout.margin, t: top + 20 * (lines.length - 1) };
}

// The place of a title whose distance from the upper edge does not grow with the figure.
function atTheTop(layout) {
  return { yref: "container", y: 1 - 12 / (layout.height ?? layout.template?.layout?.height ?? 450), yanchor: "top" };
}

// Lines of a text; markup and entities count as nothing and stay whole.
function wrapped(text, most) {
  return text.split("<br>").flatMap((line) => {
    const lines = [""];
    let used = 0;
    for (const word of line.split(" ")) {
      const length = word.replace(/<[^>]*>/g, "").replace(/&[^;]+;/g, "-").length;
      if (used && used + length > most) {
        lines.push(word);
        used = length;
      } else {
        lines[lines.length - 1] += (used ? " " : "") + word;
        used += length + 1;
      }
    }
    return lines;
  });
}

function drawPlots() {
  for (const place of document.querySelectorAll(".plot:has(> script)")) {
    const target = document.createElement("div");
    place.append(target);
    show(target, JSON.parse(place.querySelector("script").textContent));
  }
  dark.addEventListener("change", () => {
    colors = {};
    figures.forEach((figure, target) => show(target, figure));
  });
}

// Code that computes what is printed below it, compares it, or makes a class belongs to the lesson; that of a figure does not.
function openLessons() {
  for (const code of document.querySelectorAll(".jp-CodeCell details.code")) {
    const cell = code.closest(".jp-CodeCell");
    if (cell.querySelector(".jp-RenderedText") || /\bassert(_close)?\b|^class /m.test(code.textContent)) code.open = true;
  }
}

// On paper: answers unfolded, figures as wide as the page.
function prepareForPaper() {
  addEventListener("beforeprint", () => {
    for (const answer of document.querySelectorAll("main details:not(.code, .log)")) answer.open = true;
    openLessons();
    for (const target of figures.keys()) {
      target.style.minWidth = "";
      const height = Math.min(SHEET, target.clientHeight || SHEET);
      target.style.height = `${height}px`;
      const tables = target.data.flatMap((trace, place) => (trace.type === "table" ? [place] : []));
      if (tables.length) Plotly.restyle(target, { "cells.font.size": SMALLEST, "header.font.size": SMALL }, tables);
      Plotly.relayout(target, { width: Math.min(PAPER, target.clientWidth || PAPER), height, autosize: false });
    }
  });
  addEventListener("afterprint", async () => {
    for (const [target, figure] of figures) {
      await show(target, figure);
      await Plotly.Plots.resize(target);
    }
  });
}

// A line of several formulas becomes several lines on a phone.
function setFormulas() {
  const narrow = matchMedia("(max-width: 40rem)").matches;
  for (const place of document.querySelectorAll(".math")) {
    const source = place.textContent;
    const displayMode = place.classList.contains("display");
    const parts = displayMode && narrow ? source.split("\\qquad") : [source];
    try {
      const set = parts.map((part) => katex.renderToString(part, { displayMode, strict: "ignore" }));
      place.innerHTML = set.join("");
    } catch (error) {
      place.classList.add("unset");
      place.title = error.message;
      place.textContent = source;
    }
  }
}

// pandas aligns every column to the right; text reads better from the left.
function alignTables() {
  for (const table of document.querySelectorAll("table.dataframe")) {
    const rows = [...table.querySelectorAll("tr")];
    const heads = table.querySelectorAll("tbody tr:first-child > th").length;
    const columns = Math.max(0, ...rows.map((row) => row.cells.length));
    for (let column = heads; column < columns; column++) {
      const cells = rows.map((row) => row.cells[column]).filter(Boolean);
      const numeric = (cell) => /^(|-|NaN|NaT|None|[-+−]?[\d.,]+(e[-+]?\d+)?\s*%?)$/i.test(cell.textContent.trim());
      if (!cells.filter((cell) => cell.tagName === "TD").every(numeric)) {
        for (const cell of cells) cell.classList.add("text");
      }
    }
  }
}

// No column is squeezed to a word in each line.
function widenColumns(table) {
  const rows = [...table.querySelectorAll("tbody tr")];
  for (let column = 0; column < Math.max(0, ...rows.map((row) => row.cells.length)); column++) {
    const cells = rows.map((row) => row.cells[column]).filter(Boolean);
    const letters = Math.max(...cells.map((cell) => cell.textContent.length));
    for (const cell of cells) cell.classList.add(letters > SENTENCE ? "sentence" : letters > WORD ? "words" : "word");
  }
}

// Every table has a place that it can be moved in sideways. If it is too wide for its page, its headings take several lines;
// if that is not enough, the place shows that there is more, and keys reach it.
function fitTables() {
  const fit = (place) => {
    place.classList.remove("close");
    const overflows = () => place.scrollWidth > place.clientWidth + 1;
    if (overflows()) place.classList.add("close");
    const moves = overflows();
    place.classList.toggle("moves", moves);
    for (const [name, value] of [["tabindex", 0], ["role", "region"], ["aria-label", "a table that is moved sideways"]]) {
      if (moves) place.setAttribute(name, value);
      else place.removeAttribute(name);
    }
  };
  const widths = new Map();
  const watch = new ResizeObserver((places) => {
    const changed = places.filter(({ target }) => widths.get(target) !== target.clientWidth).map(({ target }) => target);
    for (const place of changed) widths.set(place, place.clientWidth);
    requestAnimationFrame(() => changed.forEach(fit));
  });
  for (const table of document.querySelectorAll("main table:not(.runs)")) {
    const place = document.createElement("div");
    place.className = "sideways";
    table.replaceWith(place);
    place.append(table);
    widenColumns(table);
    fit(place);
    watch.observe(place);
  }
}

function listContents() {
  document.querySelector(".contents").open = matchMedia("(min-width: 62rem)").matches; // below, it would fill a screen
  const list = document.getElementById("contents");
  const links = new Map();
  for (const heading of document.querySelectorAll("main .jp-RenderedMarkdown :is(h1, h2, h3)[id]")) {
    const text = heading.cloneNode(true);
    text.querySelectorAll(".anchor-link, .katex-mathml").forEach((part) => part.remove());
    const link = document.createElement("a");
    link.href = "#" + encodeURIComponent(heading.id);
    link.textContent = text.textContent;
    link.className = "level-" + heading.tagName[1];
    list.append(link);
    links.set(heading, link);
  }
  const follow = () => {
    let here = null;
    for (const heading of links.keys()) {
      if (heading.getBoundingClientRect().top < 120) here = heading;
    }
    for (const [heading, link] of links) link.classList.toggle("here", heading === here);
  };
  addEventListener("scroll", follow, { passive: true });
  follow();
}

function toggleCode() {
  const button = document.getElementById("all-code");
  button.addEventListener("click", () => {
    const show = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(show));
    button.textContent = show ? "Hide all code" : "Show all code";
    for (const cell of document.querySelectorAll("details.code")) cell.open = show;
  });
}

if (document.getElementById("all-code")) toggleCode();
setFormulas();
alignTables();
fitTables();
if (document.getElementById("contents")) listContents();
openLessons();
drawPlots();
prepareForPaper();
