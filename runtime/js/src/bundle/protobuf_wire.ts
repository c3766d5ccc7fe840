/**
 * Walking the fields of a serialised protobuf message. Whatever protobuf could read in more than one way is refused.
 * Wire format: protobuf.dev/programming-guides/encoding.
 */

const [VARINT, FIXED64, LENGTH, FIXED32] = [0, 1, 2, 5];

/** Bytes that are no well-formed message. */
export class NoMessage extends Error {}

/** A field: its number, and where the content of a length-delimited one begins and ends; -1 for other kinds. */
export type Field = readonly [number: number, start: number, stop: number];

/**
 * The fields of the message that lies in `data[position:end]`.
 *
 * @throws NoMessage it is no well-formed one.
 */
export function* fields(data: Uint8Array, position: number, end: number): Generator<Field> {
  const cursor = { data, position, end };
  while (cursor.position < end) {
    const tag = varint(cursor);
    const number = Math.floor(tag / 8);
    const wire = tag % 8;
    if (number === 0 || tag >= 2 ** 32) throw new NoMessage(`field number ${number} at byte ${cursor.position}`);
    let [start, stop] = [-1, -1];
    if (wire === LENGTH) {
      const length = varint(cursor);
      start = cursor.position;
      stop = start + length;
      cursor.position = stop;
    } else if (wire === VARINT) varint(cursor);
    else if (wire === FIXED64) cursor.position += 8;
    else if (wire === FIXED32) cursor.position += 4;
    else throw new NoMessage(`wire type ${wire} at byte ${cursor.position}`);
    if (cursor.position > end) throw new NoMessage(`truncated at byte ${end}`);
    yield [number, start, stop];
  }
}

/** A base-128 number; one too large to be exact is too large for what is done with it, too. */
function varint(cursor: { readonly data: Uint8Array; position: number; readonly end: number }): number {
  let [value, factor, bytes] = [0, 1, 0];
  while (cursor.position < cursor.end) {
    const byte = cursor.data[cursor.position++]!;
    value += (byte & 0x7f) * factor;
    if (byte < 0x80) return value;
    factor *= 128;
    if (++bytes >= 10) throw new NoMessage(`number of more than 10 bytes at byte ${cursor.position}`);
  }
  throw new NoMessage(`truncated at byte ${cursor.end}`);
}
