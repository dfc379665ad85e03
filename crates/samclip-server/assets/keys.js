// The keyboard. docs/guides/page.md has the same table.

import * as actions from './actions.js';
import { settings } from './db.js';
import { openDownload, openHelp } from './dialogs.js';
import { byId } from './dom.js';
import { emit } from './events.js';
import * as input from './input.js';
import * as modes from './modes.js';
import { editName, showAll } from './objects.js';
import * as photos from './photos.js';
import * as search from './search.js';
import { activate, activeObject, current, objects, toggleHidden } from './store.js';
import { fit, redraw, reveal, view, zoom } from './view.js';

/** [group, [[keys, what]]]: a space separates keys, an underscore stands for a space. */
export const KEYS = [
  ['Tools', [
    ['C', 'Click and box'], ['X', 'Clicks add or remove'], ['B', 'Brush'], ['E', 'Eraser'], ['[ ]', 'Brush smaller, larger'],
    ['H', 'Move the photo'], ['A', 'Everything'], ['M', 'Heat map of the name'], ['Esc', 'Cancel, leave'],
  ]],
  ['Objects', [
    ['N', 'New object'], ['1–9', 'Choose an object'], ['J K', 'Next, previous object'], ['F2', 'Rename'], ['V', 'Show or hide'],
    ['Shift+V', 'Show or hide all'], ['Del', 'Delete'], ['Ctrl+Z', 'Undo'], ['Ctrl+Shift+Z', 'Redo'],
  ]],
  ['Photos', [
    ['PgDn PgUp', 'Next, previous photo'], ['+ −', 'Zoom'], ['0', 'Whole photo'], ['Space', 'Hold to move the photo'],
    ['/', 'Find by name'], ['D', 'Download'], ['?', 'This table'],
  ]],
  ['On the photo (after Tab)', [
    ['Arrows', 'Move the cursor'], ['Shift+Arrows', 'Ten times as far'], ['Enter', 'Click, or one dab of the brush'],
    ['Alt+Enter', 'Click that removes'], ['R', 'Start a box, end it'],
  ]],
];

const SINGLE = {
  c: () => input.setTool('click'),
  b: () => input.setTool('brush'),
  e: () => input.setTool('erase'),
  h: () => input.setTool('pan'),
  x: () => input.setRemoving(!input.tool.removing),
  a: () => everything(),
  m: () => search.heat(),
  d: () => openDownload(),
  '?': () => openHelp(),
  '/': () => search.focus(),
  '[': () => input.setBrush(settings.brush / 1.25),
  ']': () => input.setBrush(Math.max(settings.brush * 1.25, settings.brush + 1)),
  '+': () => zoom(1.25),
  '=': () => zoom(1.25),
  '-': () => zoom(0.8),
  0: () => fit(),
  n: (photo) => { input.setTool('click'); actions.newObject(photo); },
  j: (photo) => actions.step(photo, 1),
  k: (photo) => actions.step(photo, -1),
  v: (photo) => activeObject(photo) && toggleHidden(photo, [photo.document.active]),
  V: () => showAll(),
  r: (photo) => corner(photo),
};
const NEEDS_PHOTO = new Set(['n', 'j', 'k', 'v', 'r', 'a']);

const NAMED = {
  PageDown: () => photos.step(1),
  PageUp: () => photos.step(-1),
  Delete: (photo) => remove(photo),
  Backspace: (photo) => remove(photo),
  F2: () => editName(),
  Escape: () => input.cancel() || modes.leave(),
};

function remove(photo) {
  const object = photo && activeObject(photo);
  if (object) actions.remove(photo, object);
}

export function everything() {
  const photo = current();
  if (modes.mode.name === 'everything') return modes.leave();
  if (!photo) return emit('status', 'Add a photo first');
  input.setTool('click');
  modes.everything(photo);
}

const typing = (target) => target.closest('input:not([type="checkbox"], [type="range"], [type="radio"]), textarea, select');

function keydown(event) {
  if (document.querySelector('dialog[open]') || event.isComposing) return;
  const photo = current();
  if ((event.ctrlKey || event.metaKey) && !event.altKey) return withControl(event, photo);
  if (typing(event.target)) return;
  if (event.target.id === 'stage' && onStage(event, photo)) return event.preventDefault();
  if (event.altKey) return;
  if (event.key === ' ' && event.target.id === 'stage') return hold(event, true);
  if (NAMED[event.key]) {
    if (event.target.matches('input[type="range"]') && event.key.startsWith('Page')) return;
    event.preventDefault();
    return NAMED[event.key](photo);
  }
  if (!settings.shortcuts) return;
  if (/^[1-9]$/.test(event.key)) return photo && activate(photo, objects(photo)[event.key - 1]?.id ?? photo.document.active);
  const action = SINGLE[event.key] || SINGLE[event.key.toLowerCase()];
  if (!action || (NEEDS_PHOTO.has(event.key.toLowerCase()) && !photo)) return;
  event.preventDefault();
  action(photo);
}

function withControl(event, photo) {
  const key = event.key.toLowerCase();
  if (typing(event.target) && event.target.matches('input[type="text"]')) return; // the text's own undo
  if (!photo || !['z', 'y'].includes(key)) return;
  event.preventDefault();
  if (key === 'y' || event.shiftKey) actions.redo(photo);
  else actions.undo(photo);
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Keys of the cursor on the photo. True when the key was one of them. */
function onStage(event, photo) {
  if (!photo?.width) return false;
  if (ARROWS[event.key]) {
    const cursor = input.keyboardCursor();
    const far = Math.max(1, Math.round((event.shiftKey ? 40 : 4) * view.ratio / view.scale));
    const [dx, dy] = ARROWS[event.key];
    view.cursor = [Math.min(Math.max(cursor[0] + dx * far, 0), photo.width - 1), Math.min(Math.max(cursor[1] + dy * far, 0), photo.height - 1)];
    reveal(view.cursor);
    followCursor();
    return true;
  }
  if (event.key !== 'Enter') return false;
  const [x, y] = input.keyboardCursor();
  const brushing = input.tool.name === 'brush' || input.tool.name === 'erase';
  if (brushing) actions.brush(photo, [[x + 0.5, y + 0.5]], settings.brush / 2, (input.tool.name === 'erase') !== event.altKey);
  else input.clickAt([x, y], event.altKey || input.tool.removing ? 0 : 1, event.shiftKey);
  redraw('marks');
  return true;
}

function followCursor() {
  const [x, y] = view.cursor;
  if (view.cursorCorner) view.draft = { box: boxFrom(view.cursorCorner, view.cursor) };
  emit('pointer', view.cursor);
  if (modes.mode.name === 'everything') modes.hoverAt([x, y]);
  redraw('marks');
}

const boxFrom = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]) + 1, Math.max(a[1], b[1]) + 1];

/** The first press sets a corner of a box, the second draws it. */
function corner(photo) {
  const cursor = input.keyboardCursor();
  if (!cursor) return;
  if (!view.cursorCorner) {
    view.cursorCorner = [...cursor];
    emit('status', 'Box started: move the cursor, then press R again');
    return redraw('marks');
  }
  const box = boxFrom(view.cursorCorner, cursor);
  input.cancel();
  if (box[2] - box[0] > 1 && box[3] - box[1] > 1) actions.drawBox(photo, box);
}

function hold(event, down) {
  if (down) event.preventDefault();
  input.tool.space = down;
  byId('stage').classList.toggle('panning', down);
}

export function start() {
  addEventListener('keydown', keydown);
  addEventListener('keyup', (event) => event.key === ' ' && hold(event, false));
  addEventListener('blur', () => hold(null, false));
}
