// Named events between the modules: "document" (objects or masks changed), "photos" (the list or the current photo),
// "settings", "net" (connection), "mode" (everything, heat map), "redraw", "status", "trouble".

const listeners = new Map();

export function on(names, callback) {
  for (const name of names.split(' ')) {
    if (!listeners.has(name)) listeners.set(name, []);
    listeners.get(name).push(callback);
  }
}

export function emit(name, detail) {
  for (const callback of listeners.get(name) || []) callback(detail);
}
