// An archive of text files that every tar reads: POSIX.1-2017, pax, "ustar Interchange Format".

export interface ArchiveFile {
  name: string;
  text: string;
}

const BLOCK_SIZE = 512;
const MODE = 0o600;
/** Where fields of a header block begin. */
const FIELDS = {
  name: 0, mode: 100, uid: 108, gid: 116, size: 124, time: 136, checksum: 148, type: 156,
  magic: 257,
} as const;
const NAME_LIMIT = 100;

/** The archive, with all files in one folder. */
export function archive(folder: string, files: readonly ArchiveFile[], now = Date.now()): Buffer {
  const blocks = files.flatMap(({ name, text }) => {
    const bytes = Buffer.from(text);
    const rest = (BLOCK_SIZE - (bytes.length % BLOCK_SIZE)) % BLOCK_SIZE;
    return [header(`${folder}/${name}`, bytes.length, now), bytes, Buffer.alloc(rest)];
  });
  return Buffer.concat([...blocks, Buffer.alloc(2 * BLOCK_SIZE)]);
}

function header(name: string, size: number, nowMs: number): Buffer {
  if (Buffer.byteLength(name) > NAME_LIMIT) throw new Error(`archive: ${name}: name too long`);
  const block = Buffer.alloc(BLOCK_SIZE);
  block.write(name, FIELDS.name);
  block.write(octal(MODE, 8), FIELDS.mode);
  block.write(octal(0, 8), FIELDS.uid);
  block.write(octal(0, 8), FIELDS.gid);
  block.write(octal(size, 12), FIELDS.size);
  block.write(octal(Math.floor(nowMs / 1000), 12), FIELDS.time);
  block.write('0', FIELDS.type);
  block.write('ustar\x0000', FIELDS.magic);
  // The checksum is the sum of the block's bytes, its own taken for spaces.
  block.fill(' ', FIELDS.checksum, FIELDS.checksum + 8);
  const sum = block.reduce((all, byte) => all + byte, 0);
  block.write(`${octal(sum, 7)} `, FIELDS.checksum);
  return block;
}

/** A number in so many bytes, the last of them zero. */
function octal(value: number, size: number): string {
  return `${value.toString(8).padStart(size - 1, '0')}\x00`;
}
