// A live figure. The code of plotly's own widget, megabytes of it, is told by one model of the kernel that all figures name,
// and is loaded once for a page. The figure is ready at once and not when that has come, for a browser that is busy gives up on
// a model after two seconds; what changes meanwhile is kept, and applied afterwards.
const CHANGES = ["addTraces", "deleteTraces", "moveTraces", "restyle", "relayout", "update", "animate", "removeLayoutProps",
  "removeTraceProps"].map((name) => `_py2js_${name}`);

async function code(model) {
  const library = await model.widget_manager.get_model(model.get("_library"));
  globalThis.workbenchFigureCode ??= import(
    URL.createObjectURL(new Blob([library.get("source")], { type: "text/javascript" }))
  );
  return (await globalThis.workbenchFigureCode).default;
}

export default () => {
  let figure;
  return {
    initialize({ model }) {
      const missed = [];
      const listeners = CHANGES.map((name) => [`change:${name}`, () => missed.push([name, model.get(name)])]);
      for (const [event, listener] of listeners) model.on(event, listener);
      figure = code(model).then((make) => {
        for (const [event, listener] of listeners) model.off(event, listener);
        const made = make();
        made.initialize({ model });
        for (const [name, change] of missed) model.set(name, change);
        return made;
      });
    },
    async render({ model, el }) {
      return (await figure).render({ model, el });
    },
  };
};
