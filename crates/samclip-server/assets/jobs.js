// Prompts on their way: every object without an answer is asked for, the photo on the screen first.
//
// The queue is not a list of its own but what the store says is waiting, so undo, a reload and a lost server need no
// special case. Hover previews are apart: one at a time, the newest wins, a lost one is forgotten.

import { ask, keyOf, net } from './api.js';
import { settings } from './db.js';
import { emit, on } from './events.js';
import { area } from './rle.js';
import { current, retract, setAnswer, state, waiting } from './store.js';

const PARALLEL = 2;
const running = new Map(); // revision -> {photo, abort}

/** Prompts that wait, over all photos. */
export const waitingCount = () => state.photos.reduce((sum, photo) => sum + waiting(photo).length, 0);

/** Starts what can be started and stops what nobody needs any more. */
export function pump() {
  const here = current();
  const needed = new Map();
  for (const photo of here ? [here, ...state.photos.filter((photo) => photo !== here)] : state.photos) {
    for (const object of waiting(photo)) needed.set(object.rev, { photo, object });
  }
  for (const [rev, job] of running) if (!needed.has(rev)) job.abort.abort(new DOMException('superseded', 'AbortError'));
  for (const [rev, { photo, object }] of needed) {
    const background = [...running.values()].filter((job) => job.photo !== here).length;
    if (!running.has(rev) && (photo === here || background < PARALLEL)) run(photo, object);
  }
}

async function run(photo, object) {
  const abort = new AbortController();
  running.set(object.rev, { photo, abort });
  try {
    const remembered = previewAnswer(photo, object.prompt);
    const reply = remembered || await segment(photo, object.prompt, abort.signal);
    setAnswer(photo, object.rev, reply);
    if (photo === current()) tell(object, reply);
  } catch (error) {
    if (!abort.signal.aborted) refused(photo, object, error);
  } finally {
    running.delete(object.rev);
    pump();
  }
}

/** Asks for one mask: {mask, score, predicted_iou, stability_score}. */
async function segment(photo, prompt, signal) {
  const document = await ask(photo, 'segment', { prompts: [wire(prompt)], image_name: photo.name }, signal);
  const { segmentation, score, predicted_iou, stability_score } = document.images[0].masks[0];
  return { mask: segmentation, score, predicted_iou, stability_score };
}

/** A prompt as the server wants it. */
function wire({ points, box, text, mask }) {
  return {
    ...(text ? { text } : {}),
    ...(points?.length ? { points: points.map(([x, y]) => [x, y]), labels: points.map((point) => point[2]) } : {}),
    ...(box ? { box } : {}),
    ...(mask ? { mask } : {}),
  };
}

/** Says what came, for those who do not see it. */
function tell({ name, prompt }, { mask, score }) {
  const pixels = area(mask), what = name || 'object';
  if (!pixels) return emit('status', prompt.text ? `No ${what} found in this photo` : 'Nothing there; try another click or a box');
  const share = (100 * pixels / (mask.size[0] * mask.size[1])).toFixed(1);
  emit('status', `${what}: ${share} % of the photo, score ${score.toFixed(2)}`);
}

function refused(photo, object, error) {
  const advice = error.hint ? ` (${error.hint})` : '';
  emit('trouble', `${error.message}${advice}`);
  if (!retract(photo, object.rev)) setAnswer(photo, object.rev, { error: error.message, hint: error.hint || null });
}

/** Sends the photo ahead, and the next one after it, so that the first click is fast. */
export async function warmUp(photo) {
  try {
    await keyOf(photo);
    const next = state.photos[state.photos.indexOf(photo) + 1];
    if (next && current() === photo && net.phase === 'online') await keyOf(next);
  } catch (error) {
    if (current() === photo) emit('trouble', `${photo.name}: ${error.message}`);
  }
}

/** The model belongs to the question: another model's answer is another answer. */
const question = (prompt) => JSON.stringify([net.model, settings.adapter, prompt]);

const preview = { text: '', answer: null, abort: null, next: null, photo: null };

/** What a click at this prompt would give. `show(answer or null)` is called when it is known. */
export function askPreview(photo, prompt, show) {
  const text = question(prompt);
  if (text === preview.text && photo === preview.photo) return show(preview.answer);
  preview.next = { photo, prompt, text, show };
  if (preview.abort) preview.abort.abort(new DOMException('superseded', 'AbortError'));
  else sendPreview();
}

export function stopPreview() {
  preview.next = null;
  preview.abort?.abort(new DOMException('superseded', 'AbortError'));
}

async function sendPreview() {
  const { photo, prompt, text, show } = preview.next;
  preview.next = null;
  if (net.phase !== 'online' || !photo.key) return;
  preview.abort = new AbortController();
  try {
    const answer = await segment(photo, prompt, preview.abort.signal);
    Object.assign(preview, { text, answer, photo });
    if (!preview.next) show(answer);
  } catch { /* a preview that fails is not shown; the click itself reports what is wrong */ }
  preview.abort = null;
  if (preview.next) sendPreview();
}

/** The preview's answer, when the user clicks where the preview was asked. */
function previewAnswer(photo, prompt) {
  return photo === preview.photo && question(prompt) === preview.text ? preview.answer : null;
}

on('document photos', pump);
on('net', () => net.phase === 'online' && pump());
