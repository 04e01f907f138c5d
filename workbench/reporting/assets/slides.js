// A page as slides. Figures are drawn again when their slide is shown: a slide that is hidden has no width.
"use strict";

const AT_CONTROL = /select|input|textarea|summary/i;

const deck = new Reveal({
  width: "100%", height: "100%", margin: 0, minScale: 1, maxScale: 1, center: false, transition: "none",
  hash: true, slideNumber: "c/t", viewDistance: 1,
  keyboardCondition: () => !AT_CONTROL.test(document.activeElement.tagName), // its keys move the control
});

const KEPT = 0.8; // of its height that a figure with one row of panels keeps so that its slide fits
const ROW = 0.9; // of the height of a figure: a panel less high has others above or below it
const SIZES = [1, 0.94, 0.88, 0.82]; // of the text of a slide that would run over

// The height that a figure needs: rows of panels have no room to give.
function least({ layout }, height) {
  const rows = axesOf(layout, "y").some((name) => layout[name].domain && layout[name].domain[1] - layout[name].domain[0] < ROW);
  return rows ? height : KEPT * height;
}

async function drawSlide() {
  const slide = deck.getCurrentSlide();
  slide.scrollTop = 0;
  const over = () => slide.scrollHeight - slide.clientHeight;
  const current = () => deck.getCurrentSlide() === slide; // one that is hidden has no height
  const drawn = [...figures].filter(([target]) => slide.contains(target));
  slide.style.fontSize = "";
  for (const [target, figure] of drawn) {
    delete target.dataset.height;
    await show(target, figure);
  }
  if (!current()) return;
  const room = drawn.map(([target, figure]) => target.clientHeight - least(figure, target.clientHeight));
  const all = room.reduce((sum, pixels) => sum + pixels, 0);
  for (const size of SIZES) {
    slide.style.fontSize = size === 1 ? "" : `${size}em`;
    if (over() <= all) break;
  }
  const share = all ? Math.min(1, Math.max(0, over()) / all) : 0; // of that room
  for (const [number, [target, figure]] of drawn.entries()) {
    target.dataset.height = target.clientHeight - share * room[number];
    await show(target, figure);
    if (!current()) return;
    Plotly.Plots.resize(target);
  }
}

// An address that names a state opens the slide of the dashboard that has it.
function openState(dashboard) {
  const slide = dashboard?.place.closest(".slides section section");
  if (!slide) return;
  const { h, v } = deck.getIndices(slide);
  deck.slide(h, v);
}

const asked = readAddress(); // before the deck writes its own place into the address
addEventListener("hashchange", () => openState(readAddress()));
deck.initialize().then(() => {
  deck.on("slidechanged", drawSlide);
  deck.on("resize", drawSlide);
  openState(asked);
  drawSlide();
});
