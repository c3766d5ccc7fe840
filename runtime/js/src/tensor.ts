/** Tensors as they are fed and come out, and the table of their dtypes. */

export type TypedArray =
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | BigUint64Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Float32Array
  | Float64Array;

/** Numbers, and where they lie. */
export interface Tensor {
  /** As numpy calls it. May be left out of inputs whose array says it: all but `bool` and `float16`. */
  readonly dtype: Dtype;
  /** Sizes of the axes. */
  readonly shape: readonly number[];
  /**
   * Elements in row-major order. A bool is a byte, 0 or 1; a float16 is its 16 bits, or an element of `Float16Array`.
   */
  readonly data: TypedArray;
}

/** What `run` takes: a tensor, or one whose dtype its array says. */
export type TensorLike = Omit<Tensor, "dtype"> & { readonly dtype?: Dtype };

type ArrayMaker = { new (length: number): TypedArray; readonly name: string; readonly BYTES_PER_ELEMENT: number };

/** One dtype. */
export interface DtypeRecord {
  /** `b` truth values, `i` and `u` whole numbers, `f` fractions. */
  readonly kind: "b" | "i" | "u" | "f";
  /** Of the elements. */
  readonly array: ArrayMaker;
  /** Smallest and largest finite value; whole numbers of 64 bits are no numbers of JavaScript. */
  readonly least: number | bigint;
  readonly most: number | bigint;
}

const FLOAT32_MOST = 3.4028234663852886e38;
/** Of engines and callers whose JavaScript has it. */
const Float16: ArrayMaker | undefined = (globalThis as { Float16Array?: ArrayMaker }).Float16Array;

/** In the order of `docs/bundle_format.md`; everything that depends on a dtype is read from here. */
export const DTYPES = {
  bool: { kind: "b", array: Uint8Array, least: 0, most: 1 },
  uint8: { kind: "u", array: Uint8Array, least: 0, most: 255 },
  uint16: { kind: "u", array: Uint16Array, least: 0, most: 65_535 },
  uint32: { kind: "u", array: Uint32Array, least: 0, most: 4_294_967_295 },
  uint64: { kind: "u", array: BigUint64Array, least: 0, most: 18_446_744_073_709_551_615n },
  int8: { kind: "i", array: Int8Array, least: -128, most: 127 },
  int16: { kind: "i", array: Int16Array, least: -32_768, most: 32_767 },
  int32: { kind: "i", array: Int32Array, least: -2_147_483_648, most: 2_147_483_647 },
  int64: { kind: "i", array: BigInt64Array, least: -9_223_372_036_854_775_808n, most: 9_223_372_036_854_775_807n },
  float16: { kind: "f", array: Uint16Array, least: -65_504, most: 65_504 },
  float32: { kind: "f", array: Float32Array, least: -FLOAT32_MOST, most: FLOAT32_MOST },
  float64: { kind: "f", array: Float64Array, least: -Number.MAX_VALUE, most: Number.MAX_VALUE },
} as const satisfies Record<string, DtypeRecord>;

export type Dtype = keyof typeof DTYPES;

/** The record of a dtype that is known to be one. */
export function dtypeRecord(dtype: Dtype): DtypeRecord {
  return DTYPES[dtype];
}

/** The number of elements of a shape. */
export function product(shape: readonly number[]): number {
  return shape.reduce((all, size) => all * size, 1);
}

/** Whether an array can hold elements of a dtype. */
export function holds(data: unknown, dtype: Dtype): data is TypedArray {
  return (
    data instanceof DTYPES[dtype].array || (dtype === "float16" && Float16 !== undefined && data instanceof Float16)
  );
}

/** The dtype that an array says by itself; undefined where it is no array, or one of several dtypes. */
export function dtypeOf(data: unknown): Dtype | undefined {
  if (data instanceof Uint8Array) return "uint8";
  if (Float16 !== undefined && data instanceof Float16) return "float16";
  return (Object.keys(DTYPES) as Dtype[]).find((name) => data instanceof DTYPES[name].array && name !== "float16");
}

/** A tensor of zeros. */
export function zeros(dtype: Dtype, shape: readonly number[]): Tensor {
  return { dtype, shape, data: new DTYPES[dtype].array(product(shape)) };
}

/** A tensor all of whose elements are one number, or one number each in row-major order. */
export function filled(dtype: Dtype, shape: readonly number[], values: number | readonly number[]): Tensor {
  const tensor = zeros(dtype, shape);
  const data = tensor.data as { [index: number]: number | bigint; length: number };
  const large = data instanceof BigInt64Array || data instanceof BigUint64Array;
  for (let index = 0; index < data.length; index++) {
    const value = typeof values === "number" ? values : values[index]!;
    data[index] = large ? BigInt(value) : dtype === "float16" ? float16Bits(value) : value;
  }
  return tensor;
}

/** The 16 bits of the float16 nearest to a number, ties to even. */
export function float16Bits(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (Number.isNaN(size)) return 0x7e00;
  if (size >= 65_520) return sign | 0x7c00; // half way to what would be the next one
  const power = Math.max(Math.floor(Math.log2(size)), -14);
  const step = 2 ** ((size < 2 ** power ? power - 1 : size >= 2 ** (power + 1) ? power + 1 : power) - 10);
  const unit = Math.max(step, 2 ** -24);
  const rounded = roundHalfEven(size / unit) * unit;
  if (rounded === 0) return sign;
  const exponent = Math.max(Math.floor(Math.log2(rounded)), -14);
  if (rounded < 2 ** -14) return sign | (rounded / 2 ** -24);
  return sign | ((exponent + 15) << 10) | ((rounded / 2 ** exponent - 1) * 1024);
}

function roundHalfEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

/** The number that 16 bits stand for. */
export function float16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
