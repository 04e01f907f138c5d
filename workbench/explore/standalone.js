// A figure in a page of its own, with plotly.js before it: as wide as the window. On a phone its legend moves to the foot, long
// titles take several lines, and its text is smaller. `{plot_id}` is filled in by plotly.
(() => {
  const NARROW = 560; // pixels of a window below which the figure is drawn for a phone
  const LINE = 24; // pixels of a line of the legend
  const plot = document.getElementById("{plot_id}");
  const wide = structuredClone(plot.layout);

  // Lines of a text of at most `most` characters.
  const wrapped = (text, most) => {
    const lines = [""];
    for (const word of (text ?? "").split(" ")) {
      if (lines.at(-1) && lines.at(-1).length + word.length >= most) lines.push(word);
      else lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
    }
    return lines;
  };

  const narrow = (width) => {
    const layout = structuredClone(wide);
    const title = wrapped(layout.title?.text, Math.floor(width / 9));
    layout.title = { ...layout.title, text: title.join("<br>"), font: { ...layout.title?.font, size: 15 }, xref: "container", x: 0.02, xanchor: "left" };
    layout.margin = { ...layout.margin, l: 56, r: 12, t: 40 + 20 * title.length };
    for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key) && layout[key].title?.text)) {
      const text = wrapped(layout[name].title.text, Math.floor(width / 10)).join("<br>");
      layout[name] = { ...layout[name], automargin: true, title: { ...layout[name].title, text, font: { size: 13 } }, tickfont: { size: 11 }, tickangle: 0 };
    }
    const named = plot.data.filter((trace) => trace.showlegend !== false).length;
    const legend = named > 1 && layout.showlegend !== false ? LINE * (named + (layout.legend?.title?.text ? 1 : 0)) : 0;
    layout.legend = { ...layout.legend, orientation: "h", entrywidth: 1, entrywidthmode: "fraction", x: 0, xanchor: "left", yref: "container", y: 0.01, yanchor: "bottom", maxheight: 0.9 };
    if (layout.legend.title) layout.legend.title = { ...layout.legend.title, side: "top" };
    layout.height = (wide.height ?? 450) + legend;
    layout.margin.b = 70 + legend;
    return layout;
  };

  let was = null;
  const fit = () => {
    const width = document.documentElement.clientWidth;
    const is = width < NARROW ? width : 0;
    if (is === was) return;
    was = is;
    Plotly.react(plot, plot.data, is ? narrow(width) : structuredClone(wide), { responsive: true, displaylogo: false });
  };
  addEventListener("resize", fit);
  fit();
})();
