// What a report page does once it is open: draw the plots, set the formulas, list the contents, show and hide code.
"use strict";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// No button of a plot sends it to another machine.
const NARROW = 560; // pixels of a figure below which it is drawn for a phone
const CONFIG = { responsive: true, displaylogo: false, showTips: false, showSendToCloud: false };

// The figures of the page by the elements that show them, to be drawn again when the reader changes between light and dark.
const figures = new Map();

function show(target, figure) {
  figures.set(target, figure);
  const layout = structuredClone(figure.layout ?? {});
  // A figure that shows the page behind it takes the page's colour of text; one with a ground of its own keeps its own.
  const ground = layout.paper_bgcolor ?? layout.template?.layout?.paper_bgcolor;
  if (ground === "rgba(0,0,0,0)") layout.font = { ...layout.font, color: css("--text") };
  if (target.clientWidth < NARROW) fold(layout, figure.data ?? [], target.clientWidth);
  // Plotly fills the height of its place, which is that of the figure.
  target.style.height = `${layout.height ?? layout.template?.layout?.height ?? 450}px`;
  return Plotly.react(target, figure.data ?? [], layout, CONFIG);
}

// On a phone: the legend at the foot of the figure, in a height of its own, and titles of several lines.
function fold(layout, data, width) {
  const template = layout.template?.layout ?? {};
  const named = data.filter((trace) => trace.showlegend !== false).length;
  const height = layout.height ?? template.height ?? 450;
  const foot = { orientation: "h", x: 0, xanchor: "left", yref: "container", y: 0.01, yanchor: "bottom" };
  layout.legend = { ...layout.legend, ...foot, entrywidth: undefined };
  layout.margin = { ...template.margin, ...layout.margin, l: 48, r: 8 };
  const title = layout.title?.text ?? "";
  const lines = wrapped(title, Math.floor(width / 9));
  if (lines.length > 1) {
    layout.title = { ...layout.title, text: lines.join("<br>"), font: { ...layout.title.font, size: 15 } };
    layout.margin.t = (layout.margin.t ?? 56) + 20 * (lines.length - 1);
  }
  for (const axis of Object.keys(layout).filter((name) => /^[xy]axis/.test(name) && layout[name].title?.text)) {
    const text = wrapped(layout[axis].title.text, Math.floor((axis[0] === "x" ? width : 300) / 9)).join("<br>");
    layout[axis] = { ...layout[axis], title: { ...layout[axis].title, text } };
  }
  layout.height = height + (layout.showlegend !== false && named > 1 ? 21 * named : 0);
}

// Lines of a title; markup and entities count as nothing and stay whole.
function wrapped(text, most) {
  const lines = [""];
  let used = 0;
  for (const word of text.split(" ")) {
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
}

function drawPlots() {
  for (const place of document.querySelectorAll(".plot:has(> script)")) {
    const target = document.createElement("div");
    place.append(target);
    show(target, JSON.parse(place.querySelector("script").textContent));
  }
  dark.addEventListener("change", () => figures.forEach((figure, target) => show(target, figure)));
}

function setFormulas() {
  for (const place of document.querySelectorAll(".math")) {
    const source = place.textContent;
    try {
      katex.render(source, place, { displayMode: place.classList.contains("display"), strict: "ignore" });
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

function listContents() {
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

toggleCode();
setFormulas();
alignTables();
listContents();
drawPlots();
