// What the user can do to the objects of a photo; each is one step of the history.

import { usesAdapter } from './api.js';
import { emit } from './events.js';
import { bbox, stroke, subtract, union } from './rle.js';
import * as store from './store.js';

const say = (text) => emit('status', text);

/** The names in a text, split at commas. */
export function namesIn(text) {
  return [...new Set(text.split(',').map((name) => name.trim()).filter(Boolean))];
}

/** One object per name, found by its text. */
export function find(photo, names) {
  const made = names.map((name) => {
    return store.makeObject(photo, { name, prompt: { text: name, points: [], box: null }, rev: store.newId() });
  });
  const kept = store.objects(photo).filter((object) => !isBlank(object));
  store.commit(photo, `find ${names.join(', ')}`, [...kept, ...made], made[made.length - 1].id);
}

/** The same on every photo that does not have it yet. Returns how many photos are asked. */
export function findEverywhere(names) {
  let asked = 0;
  for (const photo of store.state.photos) {
    const known = new Set(store.objects(photo).map((object) => object.prompt?.text));
    const missing = names.filter((name) => !known.has(name));
    if (!missing.length) continue;
    find(photo, missing);
    asked++;
  }
  return asked;
}

const isBlank = (object) => !object.prompt && !object.edits && !object.name;

/** An empty object to click on. */
export function newObject(photo) {
  const blank = store.objects(photo).find(isBlank);
  if (blank) return store.activate(photo, blank.id);
  const object = store.makeObject(photo, {});
  store.commit(photo, 'new object', [...store.objects(photo), object], object.id);
  say('New object: click on it, draw a box or paint');
}

/** The prompt that the active object would have with one more click. What a text found is refined: its mask and box. */
export function promptWith(photo, point) {
  const object = store.activeObject(photo);
  const prompt = clickable(photo, object);
  return { ...prompt, points: [...prompt.points, point] };
}

function clickable(photo, object) {
  const prompt = object?.prompt || { text: null, points: [], box: null };
  if (!prompt.text || usesAdapter()) return prompt;
  const mask = store.answer(photo, object)?.mask;
  const [x, y, w, h] = mask ? bbox(mask) : [0, 0, 0, 0];
  return w && h ? { text: null, points: prompt.points, box: [x, y, x + w, y + h], mask } : { text: null, points: prompt.points, box: null };
}

/** A click on (1) or beside (0) the active object; starts an object where there is none. */
export function click(photo, x, y, label) {
  const object = store.activeObject(photo);
  if (!object?.prompt && label === 0) return say('Click on the object first, then on what does not belong to it');
  setPrompt(photo, object, promptWith(photo, [x, y, label]), label ? 'click' : 'click to remove');
}

/** A box around the active object. */
export function drawBox(photo, box) {
  const object = store.activeObject(photo);
  setPrompt(photo, object, { text: null, points: object?.prompt?.points || [], box }, 'box');
}

function setPrompt(photo, object, prompt, label) {
  const rev = store.newId();
  if (object) return store.commit(photo, label, store.replace(photo, { ...object, prompt, rev }));
  const made = store.makeObject(photo, { prompt, rev });
  store.commit(photo, label, [...store.objects(photo), made], made.id);
}

/** A stroke of the brush or the eraser along `path`, on top of what the model said. */
export function brush(photo, path, radius, erase) {
  const object = store.activeObject(photo);
  if (!object && erase) return say('Choose the object to erase from');
  const size = [photo.height, photo.width];
  const painted = stroke(path, radius, size);
  const before = object?.edits || { added: null, removed: null };
  const edits = erase
    ? { added: subtract(before.added, painted, size), removed: union(before.removed, painted, size) }
    : { added: union(before.added, painted, size), removed: subtract(before.removed, painted, size) };
  const label = erase ? 'eraser' : 'brush';
  if (object) return store.commit(photo, label, store.replace(photo, { ...object, edits }));
  const made = store.makeObject(photo, { edits });
  store.commit(photo, label, [...store.objects(photo), made], made.id);
}

/** A mask of "everything" becomes an object; its grid point is the prompt that further clicks refine. */
export function pick(photo, records) {
  const kept = store.objects(photo).filter((object) => !isBlank(object));
  const made = records.map((record) => {
    const [x, y] = record.prompt.points[0];
    const points = [[Math.min(Math.floor(x), photo.width - 1), Math.min(Math.floor(y), photo.height - 1), 1]];
    const rev = store.newId();
    const { segmentation, score, predicted_iou, stability_score } = record;
    photo.document.answers.set(rev, { mask: segmentation, score, predicted_iou, stability_score });
    return store.makeObject(photo, { prompt: { text: null, points, box: null }, rev });
  });
  store.commit(photo, made.length === 1 ? 'pick' : `pick ${made.length}`, [...kept, ...made], made[made.length - 1].id);
}

export function rename(photo, object, name) {
  if (name === object.name) return;
  store.commit(photo, 'rename', store.replace(photo, { ...object, name }));
}

export function recolour(photo, object, colour) {
  if (colour === object.colour) return;
  store.commit(photo, 'colour', store.replace(photo, { ...object, colour }));
}

export function remove(photo, object) {
  const list = store.objects(photo), at = list.indexOf(object);
  const rest = list.filter((other) => other !== object);
  store.commit(photo, 'delete', rest, (rest[at] || rest[rest.length - 1])?.id ?? null);
  say(`${object.name || 'Object'} deleted. Undo brings it back`);
}

/** The next or the previous object becomes active. */
export function step(photo, by) {
  const list = store.objects(photo);
  if (!list.length) return;
  const at = list.findIndex((object) => object.id === photo.document.active);
  store.activate(photo, list[(at + by + list.length) % list.length].id);
}

export function undo(photo) {
  const label = store.travel(photo, -1);
  say(label ? `Undone: ${label}` : 'Nothing to undo');
}

export function redo(photo) {
  const label = store.travel(photo, 1);
  say(label ? `Done again: ${label}` : 'Nothing to do again');
}
