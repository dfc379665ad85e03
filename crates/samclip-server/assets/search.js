// The text box: completion from the server's words, finding on this photo or on all, the heat map.
//
// Pattern: WAI-ARIA combobox with a list. Several names are separated by commas; the last one is completed.

import * as actions from './actions.js';
import { net } from './api.js';
import { byId, element } from './dom.js';
import { emit, on } from './events.js';
import * as modes from './modes.js';
import { current, state } from './store.js';

const form = byId('search');
const box = byId('text');
const list = byId('words');
const MOST = 8;
let chosen = -1;

/** The words that fit what is typed: those that start with it, then those with a part that does. */
function suggestions() {
  const last = box.value.split(',').pop().trim().toLowerCase();
  if (!last) return [];
  const starts = [], parts = [];
  for (const word of net.words) {
    const at = word.toLowerCase().indexOf(last);
    if (at === 0) starts.push(word);
    else if (at > 0 && /[\s-]/.test(word[at - 1])) parts.push(word);
    if (starts.length > 200) break;
  }
  starts.sort((a, b) => a.length - b.length);
  return [...starts, ...parts].slice(0, MOST);
}

function refresh() {
  const words = suggestions();
  const typed = box.value.split(',').pop().trim();
  list.replaceChildren(...words.map((word, i) => {
    const at = word.toLowerCase().indexOf(typed.toLowerCase()), end = at + typed.length;
    const parts = [word.slice(0, at), element('b', {}, word.slice(at, end)), word.slice(end)];
    const item = element('li', { id: `word-${i}`, role: 'option', ariaSelected: 'false' }, ...parts);
    item.dataset.word = word;
    return item;
  }));
  const exact = words.length === 1 && words[0] === typed;
  open(words.length > 0 && !exact);
}

function open(visible) {
  list.hidden = !visible;
  box.setAttribute('aria-expanded', String(visible));
  choose(-1);
}

function choose(index) {
  const items = [...list.children];
  chosen = items.length ? (index + items.length + (index < -1 ? 1 : 0)) % items.length : -1;
  if (index === -1) chosen = -1;
  items.forEach((item, i) => item.setAttribute('aria-selected', String(i === chosen)));
  if (chosen >= 0) {
    box.setAttribute('aria-activedescendant', items[chosen].id);
    items[chosen].scrollIntoView({ block: 'nearest' });
  } else box.removeAttribute('aria-activedescendant');
}

function accept(word) {
  const names = box.value.split(',').slice(0, -1).map((name) => name.trim()).filter(Boolean);
  box.value = [...names, word].join(', ');
  open(false);
}

function keydown(event) {
  if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
    event.preventDefault();
    if (list.hidden) return refresh();
    const count = list.children.length, down = event.key === 'ArrowDown';
    choose(chosen < 0 ? (down ? 0 : count - 1) : (chosen + (down ? 1 : count - 1)) % count);
  } else if (event.key === 'Enter' && chosen >= 0 && !list.hidden) {
    event.preventDefault();
    accept(list.children[chosen].dataset.word);
  } else if (event.key === 'Tab' && chosen >= 0 && !list.hidden) {
    accept(list.children[chosen].dataset.word);
  } else if (event.key === 'Escape') {
    event.stopPropagation();
    if (list.hidden) byId('stage').focus();
    else open(false);
  }
}

function names() {
  const found = actions.namesIn(box.value);
  if (!found.length) {
    emit('status', 'Type a name first');
    box.focus();
  }
  return found;
}

function find(event) {
  event.preventDefault();
  open(false);
  const photo = current();
  if (!photo) return emit('status', 'Add a photo first');
  const found = names();
  if (!found.length) return;
  modes.leave();
  actions.find(photo, found);
  box.select();
}

function findAll() {
  open(false);
  const found = names();
  if (!found.length) return;
  const asked = actions.findEverywhere(found);
  emit('status', asked ? `Looking for ${found.join(', ')} in ${asked} photos` : 'Every photo has it already');
}

export function heat() {
  const photo = current();
  if (modes.mode.name === 'heat') return modes.leave();
  if (!photo) return emit('status', 'Add a photo first');
  const [name] = names();
  if (name) modes.heat(photo, name);
}

export function focus() {
  box.focus();
  box.select();
}

export function start() {
  form.addEventListener('submit', find);
  byId('find-all').addEventListener('click', findAll);
  byId('heat').addEventListener('click', heat);
  box.addEventListener('input', refresh);
  box.addEventListener('keydown', keydown);
  box.addEventListener('blur', () => open(false));
  list.addEventListener('pointerdown', (event) => {
    event.preventDefault(); // the box keeps the focus
    const item = event.target.closest('li');
    if (item) accept(item.dataset.word);
  });
  on('photos', () => { byId('find-all').disabled = box.disabled || state.photos.length < 2; });
}
