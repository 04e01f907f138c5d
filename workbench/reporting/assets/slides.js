// A page as slides. Figures are drawn again when their slide is shown: a slide that is hidden has no width.
"use strict";

const AT_CONTROL = /select|input|textarea|summary/i;

const deck = new Reveal({
  width: "100%", height: "100%", margin: 0, minScale: 1, maxScale: 1, center: false, transition: "none",
  hash: true, slideNumber: "c/t", viewDistance: 1,
  keyboardCondition: () => !AT_CONTROL.test(document.activeElement.tagName), // its keys move the control
});

const KEPT = 0.8; // of its height that a figure of one panel keeps so that its slide fits

async function drawSlide() {
  const slide = deck.getCurrentSlide();
  slide.scrollTop = 0;
  for (const [target, figure] of figures) {
    if (!slide.contains(target)) continue;
    delete target.dataset.height;
    await show(target, figure);
    if (deck.getCurrentSlide() !== slide) return; // one that is hidden has no height either
    const height = target.clientHeight;
    const least = panelled(figure) ? height : KEPT * height;
    target.dataset.height = Math.max(least, height - Math.max(0, slide.scrollHeight - slide.clientHeight));
    await show(target, figure);
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

openLessons();
const asked = readAddress(); // before the deck writes its own place into the address
addEventListener("hashchange", () => openState(readAddress()));
deck.initialize().then(() => {
  deck.on("slidechanged", drawSlide);
  deck.on("resize", drawSlide);
  openState(asked);
  drawSlide();
});
