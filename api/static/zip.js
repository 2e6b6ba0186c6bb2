// A ZIP archive of files that are compressed already, so they are stored as they are.
//
// PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7 (local file header), 4.3.12 (central directory) and 4.3.16 (its end);
// up to 65,535 files and 4 GB in all.

const VERSION = 20;
/** Bit 11: names are UTF-8. */
const FLAGS = 0x0800;
/** 1980-01-01, the format's first day: the same files make the same archive. */
const DAY = 0x0021;

/**
 * @param {{name: string, data: Uint8Array}[]} files
 * @returns {Blob}
 */
export function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, data } of files) {
    const path = new TextEncoder().encode(name);
    // Version needed, flags, method (stored), time, day, CRC-32, both sizes, lengths of name and extra field.
    const facts = [
      ...[VERSION, FLAGS, 0, 0, DAY].map(u16),
      ...[crc32(data), data.length, data.length].map(u32),
      ...[path.length, 0].map(u16),
    ];
    const header = [u32(0x04034b50), ...facts, path];
    // The same again, with length of comment, disk, attributes, and where the file begins.
    directory.push(u32(0x02014b50), u16(VERSION), ...facts, ...[0, 0, 0].map(u16), u32(0), u32(offset), path);
    parts.push(...header, data);
    offset += length(header) + data.length;
  }
  const end = [u32(0x06054b50), ...[0, 0, files.length, files.length].map(u16), u32(length(directory)), u32(offset), u16(0)];
  return new Blob([...parts, ...directory, ...end], { type: "application/zip" });
}

const length = (parts) => parts.reduce((sum, part) => sum + part.length, 0);
const u16 = (value) => Uint8Array.of(value, value >> 8);
const u32 = (value) => Uint8Array.of(value, value >> 8, value >> 16, value >> 24);

/** ISO 3309's, reflected, as ZIP and PNG have it. */
function crc32(data) {
  let crc = ~0;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc;
}
