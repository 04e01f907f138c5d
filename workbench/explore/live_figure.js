// A live figure. The code of plotly's own widget, megabytes of it, is sent once, by one model of the kernel that all figures name.
// The figure is ready before that code has come; what changes meanwhile is kept, and applied afterwards.
const CHANGES = ["addTraces", "deleteTraces", "moveTraces", "restyle", "relayout", "update", "animate", "removeLayoutProps",
  "removeTraceProps"].map((name) => `_py2js_${name}`);

// After each change plotly's class works out all that the browser filled in, three times as much as it was sent, and sends it
// back. The kernel needs none of it, and the next change would wait until it has read it.
const UNNEEDED = ["_sendTraceDeltas", "_sendLayoutDelta"];

async function code(model) {
  const library = await model.widget_manager.get_model(model.get("_library"));
  globalThis.workbenchFigureCode ??= import(
    URL.createObjectURL(new Blob([library.get("source")], { type: "text/javascript" }))
  );
  const { default: make, FigureView } = await globalThis.workbenchFigureCode;
  for (const name of UNNEEDED) FigureView.prototype[name] = () => {};
  return make;
}

// anywidget holds every message back until its model is ready, and refuses them all, for good, if a busy browser takes longer
// than two seconds for that: the figure is drawn later, but never hears of a change. From here on this model is ready, so its
// messages go straight to the class below anywidget's.
async function hear(model) {
  const own = await model.widget_manager.get_model(model.get("_own_id"));
  const handle = Object.getPrototypeOf(Object.getPrototypeOf(own))?._handle_comm_msg;
  if (handle && own.comm) own.comm.on_msg((message) => handle.call(own, message));
}

export default () => {
  let figure;
  return {
    initialize({ model }) {
      // Marks of WebGL as sharp as the screen is: by default they are four times as many pixels.
      model.set("_config", { ...model.get("_config"), plotGlPixelRatio: Math.min(2, Math.max(1, devicePixelRatio)) });
      const missed = [];
      const listeners = CHANGES.map((name) => [`change:${name}`, () => missed.push([name, model.get(name)])]);
      for (const [event, listener] of listeners) model.on(event, listener);
      const heard = hear(model);
      // Tells the kernel which of its versions is shown: one that stays behind has lost an update, and is opened again.
      const acknowledge = () => {
        model.set("_shown", model.get("_version"));
        model.save_changes();
      };
      figure = Promise.all([code(model), heard]).then(([make]) => {
        for (const [event, listener] of listeners) model.off(event, listener);
        const made = make();
        made.initialize({ model });
        for (const [name, change] of missed) model.set(name, change);
        model.on("change:_version", acknowledge);
        acknowledge();
        return made;
      });
    },
    async render({ model, el }) {
      // A figure that is not connected reports it.
      const note = document.createElement("p");
      note.textContent = "Connecting the figure …";
      el.append(note);
      const made = await figure.catch((error) => {
        note.textContent = `This figure is not connected (${error.message}): run its cell again.`;
        throw error;
      });
      note.remove();
      const height = () => (el.style.height = `${model.get("_widget_layout").height ?? 450}px`);
      height();
      const remove = await made.render({ model, el });
      model.on("change:_version", height);
      model.on("msg:custom", (message) => message.save && el.querySelector(".modebar-btn[data-title^='Download']")?.click());
      // plotly fits a figure to its place when the window changes; a place also changes with the side bars, and as it opens.
      let width = 0;
      const places = new ResizeObserver(() => {
        if (el.clientWidth === width) return;
        width = el.clientWidth;
        dispatchEvent(new Event("resize"));
        // What stands for the dashboard in a notebook that is opened without a kernel.
        for (const still of el.closest(".jp-OutputArea")?.querySelectorAll(".workbench-still") ?? []) {
          still.closest(".jp-OutputArea-child").style.display = "none";
        }
      });
      places.observe(el);
      return () => {
        places.disconnect();
        return remove?.();
      };
    },
  };
};
