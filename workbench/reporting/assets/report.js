// What a report page does once it is open: draw the plots, set the formulas, list the contents, show and hide code.
"use strict";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// No button of a plot sends it to another machine.
const CONFIG = { responsive: true, displaylogo: false, showTips: false, showSendToCloud: false };

function drawPlots() {
  for (const place of document.querySelectorAll(".plot")) {
    const figure = JSON.parse(place.querySelector("script").textContent);
    const target = document.createElement("div");
    place.append(target);
    const draw = () => {
      const layout = structuredClone(figure.layout ?? {});
      // A figure that shows the page behind it takes the page's colour of text; one with a ground of its own keeps its own.
      const ground = layout.paper_bgcolor ?? layout.template?.layout?.paper_bgcolor;
      if (ground === "rgba(0,0,0,0)") layout.font = { ...layout.font, color: css("--text") };
      Plotly.react(target, figure.data ?? [], layout, CONFIG);
    };
    draw();
    dark.addEventListener("change", draw);
  }
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
