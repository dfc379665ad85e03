// The list of objects of the photo: colour, name, what the server said, visibility, delete.

import * as actions from './actions.js';
import { byId, element } from './dom.js';
import { on } from './events.js';
import { area } from './rle.js';
import { activate, answer, current, isHidden, maskOf, objects, toggleHidden } from './store.js';

const list = byId('object-list');
const rows = new Map(); // object id -> elements of its row
let shownPhoto = null;

export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

const find = (id) => objects(current()).find((object) => object.id === id);

function makeRow(id) {
  const colour = element('input', { type: 'color', title: 'Colour' });
  const name = element('input', { type: 'text', placeholder: 'object', maxLength: 200, spellcheck: false });
  const info = element('span', { className: 'info' });
  const eye = element('button', { type: 'button', className: 'square small' }, icon('eye'));
  const trash = element('button', { type: 'button', className: 'square small', title: 'Delete (Del)' }, icon('trash'));
  const row = element('li', { className: 'object' }, colour, name, info, eye, trash);
  row.dataset.id = id;
  row.addEventListener('click', () => activate(current(), id));
  name.addEventListener('focus', () => activate(current(), id));
  name.addEventListener('change', () => actions.rename(current(), find(id), name.value.trim()));
  name.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') name.blur();
    if (event.key === 'Escape') {
      name.value = find(id).name;
      name.blur();
      event.stopPropagation();
    }
  });
  colour.addEventListener('change', () => actions.recolour(current(), find(id), colour.value));
  eye.addEventListener('click', (event) => {
    event.stopPropagation();
    toggleHidden(current(), [id]);
  });
  trash.addEventListener('click', (event) => {
    event.stopPropagation();
    actions.remove(current(), find(id));
  });
  return { row, colour, name, info, eye, trash };
}

/** What the row says about the mask. */
function describe(photo, object) {
  const reply = answer(photo, object);
  if (object.rev && !reply) return ['waiting …', 'waiting'];
  if (reply?.error) return ['failed', 'failed', reply.hint ? `${reply.error} (${reply.hint})` : reply.error];
  const mask = maskOf(photo, object);
  if (!mask) return ['empty', '', 'Click on the photo, draw a box or paint'];
  const pixels = area(mask);
  if (!pixels) return [object.prompt?.text ? 'not found' : 'empty', '', 'Click on it, or draw a box around it'];
  const share = pixels / (mask.size[0] * mask.size[1]);
  const parts = [`${pixels.toLocaleString('en')} pixels, ${(share * 100).toFixed(1)} % of the photo`];
  if (reply?.score !== undefined) parts.push(`score ${reply.score.toFixed(2)}, predicted IoU ${reply.predicted_iou.toFixed(2)}`);
  if (object.edits) parts.push('edited by brush');
  return [`${(share * 100).toFixed(1)} %`, '', parts.join('; ')];
}

function update(photo, object, parts, number) {
  const label = object.name || 'object';
  const hidden = isHidden(photo, object);
  const [text, kind, title] = describe(photo, object);
  if (document.activeElement !== parts.name && parts.name.value !== object.name) parts.name.value = object.name;
  if (parts.colour.value !== object.colour) parts.colour.value = object.colour;
  if (parts.info.textContent !== text) parts.info.textContent = text;
  parts.info.className = `info ${kind}`;
  parts.info.title = title || '';
  parts.row.classList.toggle('hidden-object', hidden);
  parts.row.setAttribute('aria-current', String(photo.document.active === object.id));
  parts.name.setAttribute('aria-label', `Name of object ${number}`);
  parts.colour.setAttribute('aria-label', `Colour of ${label}`);
  parts.trash.setAttribute('aria-label', `Delete ${label}`);
  if (parts.hidden !== hidden) {
    parts.hidden = hidden;
    parts.eye.replaceChildren(icon(hidden ? 'eye-off' : 'eye'));
    parts.eye.title = hidden ? 'Show (V)' : 'Hide (V)';
  }
  parts.eye.setAttribute('aria-label', `${hidden ? 'Show' : 'Hide'} ${label}`);
}

export function render() {
  const photo = current();
  const items = photo ? objects(photo) : [];
  if (shownPhoto !== photo?.id) {
    list.replaceChildren();
    rows.clear();
    shownPhoto = photo?.id;
  }
  const alive = new Set(items.map((object) => object.id));
  for (const [id, parts] of rows) if (!alive.has(id)) rows.delete(id), parts.row.remove();
  items.forEach((object, i) => {
    if (!rows.has(object.id)) rows.set(object.id, makeRow(object.id));
    const parts = rows.get(object.id);
    if (list.children[i] !== parts.row) list.insertBefore(parts.row, list.children[i] || null);
    update(photo, object, parts, i + 1);
  });
  byId('object-count').textContent = items.length ? String(items.length) : '';
  byId('object-none').hidden = items.length > 0;
  const active = photo && rows.get(photo.document.active);
  if (active && active.row !== lastActive) active.row.scrollIntoView({ block: 'nearest' });
  lastActive = active?.row;
  byId('undo').disabled = !photo?.document.past.length;
  byId('redo').disabled = !photo?.document.future.length;
}

let lastActive = null;

/** Puts the cursor into the active object's name. */
export function editName() {
  const parts = current() && rows.get(current().document.active);
  parts?.name.focus();
  parts?.name.select();
}

export function showAll() {
  const photo = current();
  if (!photo) return;
  const ids = objects(photo).map((object) => object.id);
  toggleHidden(photo, ids, objects(photo).some((object) => !isHidden(photo, object)));
}

export function start() {
  byId('new-object').addEventListener('click', () => current() && actions.newObject(current()));
  byId('show-all').addEventListener('click', showAll);
  on('document photos', render);
}
