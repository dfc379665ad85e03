// A ZIP archive of stored (uncompressed) files, for downloads of several files at once.
//
// Format: PKWARE's APPNOTE 4.3, without ZIP64: below 65,536 files and 4 GiB. Names are UTF-8.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

/** CRC-32 of ZIP and PNG. */
export function crc32(bytes) {
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) crc = TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** `files`: [{name, blob}]. */
export async function zip(files) {
  const parts = [], directory = [];
  let offset = 0;
  for (const { name, blob } of files) {
    const bytes = new Uint8Array(await blob.arrayBuffer());
    const entry = { name: new TextEncoder().encode(name), crc: crc32(bytes), length: bytes.length, offset };
    const head = header(entry, false);
    parts.push(head, blob);
    directory.push(header(entry, true));
    offset += head.length + bytes.length;
  }
  if (files.length > 65535 || offset > 0xffffffff) throw new Error('too much for one ZIP file; download fewer photos');
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true);
  end.setUint16(10, files.length, true);
  end.setUint32(12, size, true);
  end.setUint32(16, offset, true);
  return new Blob([...parts, ...directory, end.buffer], { type: 'application/zip' });
}

/** A file's local header, or its entry in the central directory. */
function header({ name, crc, length, offset }, central) {
  const fixed = central ? 46 : 30, shift = central ? 2 : 0;
  const out = new Uint8Array(fixed + name.length);
  const view = new DataView(out.buffer);
  view.setUint32(0, central ? 0x02014b50 : 0x04034b50, true);
  if (central) view.setUint16(4, 20, true);
  view.setUint16(4 + shift, 20, true);
  view.setUint16(6 + shift, 0x0800, true); // names are UTF-8
  view.setUint16(12 + shift, 0x21, true); // 1 January 1980: the same work gives the same file
  view.setUint32(14 + shift, crc, true);
  view.setUint32(18 + shift, length, true);
  view.setUint32(22 + shift, length, true);
  view.setUint16(26 + shift, name.length, true);
  if (central) view.setUint32(42, offset, true);
  out.set(name, fixed);
  return out;
}
