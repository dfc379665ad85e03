// Downloads: the work as PNG, COCO, LabelMe or YOLO, with the field names and numbers of the command line's files.
//
// Reference: crates/samclip-predict/src/output. Parity: tests/page.rs compares the files with the command line's.

import { work } from './masks.js';
import { area, bbox } from './rle.js';
import { answer, maskOf, objects } from './store.js';
import { zip } from './zip.js';

export const FORMATS = {
  png: ['PNG masks', 'One black and white picture per object, of the photo’s size'],
  coco: ['COCO', 'One JSON file with run-length encoded masks'],
  labelme: ['LabelMe', 'One JSON file with polygons per photo'],
  yolo: ['YOLO', 'One text file with polygons per photo, and classes.txt'],
};

/** The objects of a photo that have an answer. An empty one is a name asked for and not found: it is numbered as well. */
function answered(photo) {
  return objects(photo).map((object) => {
    const mask = maskOf(photo, object);
    return mask ? { object, mask, label: object.name || 'object' } : null;
  }).filter(Boolean);
}

const found = ({ mask }) => area(mask) > 0;

/** The objects of a photo that have something to export. */
export const exported = (photo) => answered(photo).filter(found);

/** {name, blob} of a download, or null when there is nothing to export. */
export async function pack(format, photos, progress) {
  const items = photos.map((photo) => ({ photo, entries: answered(photo) })).filter(({ entries }) => entries.some(found));
  if (!items.length) return null;
  const names = uniqueNames(items.map(({ photo }) => photo));
  const files = await WRITERS[format](items.map((item, i) => ({ ...item, stem: names[i] })), progress);
  if (files.length === 1) return { name: files[0].name.split('/').pop(), blob: files[0].blob };
  const single = photos.length === 1 ? names[0].split('/').pop() : 'samclip';
  return { name: `${single}_${format}.zip`, blob: await zip(files) };
}

/** Names without extension, safe in a ZIP file and different from each other. */
function uniqueNames(photos) {
  const used = new Set();
  return photos.map((photo) => {
    const parts = photo.path.split(/[/\\]/).map(safe).filter((part) => part && !/^\.+$/.test(part));
    const base = (parts.join('/') || 'photo').replace(/\.[^./]+$/, '');
    let name = base;
    for (let i = 2; used.has(name.toLowerCase()); i++) name = `${base}_${i}`;
    used.add(name.toLowerCase());
    return name;
  });
}

/** The photo's name; its path, where another photo of the download has the same name. */
function fileName(photo, items) {
  return items.some((item) => item.photo !== photo && item.photo.name === photo.name) ? photo.path : photo.name;
}

// Control characters and what file systems refuse.
// eslint-disable-next-line no-control-regex
const safe = (part) => part.replace(/[\u0000-\u001f\u007f<>:"|?*]/g, '_').trim();
const json = (value) => new Blob([JSON.stringify(value)], { type: 'application/json' });
const text = (value) => new Blob([value], { type: 'text/plain' });

/** Calls `each` for every photo and reports progress. */
async function forEach(items, progress, each) {
  for (let i = 0; i < items.length; i++) {
    progress?.(i, items.length);
    await each(items[i], i);
  }
}

const WRITERS = {
  async png(items, progress) {
    const files = [];
    await forEach(items, progress, async ({ entries, stem }) => {
      for (let i = 0; i < entries.length; i++) {
        files.push({ name: `${stem}_${i}.png`, blob: await work('png', { mask: entries[i].mask }) });
      }
    });
    return files;
  },

  async coco(items) {
    const images = [], annotations = [], categories = [];
    for (const { photo, entries } of items) {
      const image_id = images.length + 1;
      images.push({ id: image_id, file_name: fileName(photo, items), width: photo.width, height: photo.height });
      for (const { object, mask, label } of entries) {
        if (!categories.includes(label)) categories.push(label);
        if (!area(mask)) continue;
        annotations.push({
          id: annotations.length + 1, image_id, category_id: categories.indexOf(label) + 1,
          segmentation: { size: mask.size, counts: mask.counts }, bbox: bbox(mask), area: area(mask), iscrowd: 0,
          ...scores(photo, object),
        });
      }
    }
    const named = categories.map((name, i) => ({ id: i + 1, name, supercategory: '' }));
    const info = { description: 'masks by samclip' };
    return [{ name: 'coco.json', blob: json({ info, licenses: [], images, annotations, categories: named }) }];
  },

  async labelme(items, progress) {
    const files = [];
    await forEach(items, progress, async ({ photo, entries, stem }) => {
      const shapes = [];
      for (let group_id = 0; group_id < entries.length; group_id++) {
        const { mask, label } = entries[group_id];
        for (const points of await work('polygons', { mask })) {
          shapes.push({ label, points, group_id, description: '', shape_type: 'polygon', flags: {}, mask: null });
        }
      }
      const document = {
        version: '5.5.0', flags: {}, shapes, imagePath: fileName(photo, items), imageData: null,
        imageHeight: photo.height, imageWidth: photo.width,
      };
      files.push({ name: `${stem}.json`, blob: json(document) });
    });
    return files;
  },

  async yolo(items, progress) {
    const files = [], classes = [];
    await forEach(items, progress, async ({ photo, entries, stem }) => {
      const lines = [];
      for (const { mask, label } of entries) {
        if (!classes.includes(label)) classes.push(label);
        for (const ring of await work('polygons', { mask })) {
          const shares = ring.flatMap(([x, y]) => [share(x, photo.width), share(y, photo.height)]);
          lines.push(`${classes.indexOf(label)} ${shares.join(' ')}\n`);
        }
      }
      files.push({ name: `${stem}.txt`, blob: text(lines.join('')) });
    });
    const line = (name) => `${name.replace(/[\r\n]+/g, ' ')}\n`;
    return [...files, { name: 'classes.txt', blob: text(classes.map(line).join('')) }];
  },
};

const share = (value, size) => Math.fround(value / size).toFixed(6);

/** The model's numbers, where the mask is as the model gave it. */
function scores(photo, object) {
  const given = answer(photo, object);
  if (object.edits || !given || given.score === undefined) return {};
  const { score, predicted_iou, stability_score } = given;
  return { score, predicted_iou, stability_score };
}

/** Hands a file to the browser. */
export function download({ name, blob }) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
