/**
 * Resizing pictures of 8 bits as Pillow does: the same weights in fixed point, hence the same pixels.
 *
 * Lines are resized before columns, as in Pillow up to 12. From 13 on Pillow begins with the columns where a picture
 * loses many more lines than columns; then a pixel may differ by a step or two of 255.
 *
 * Source: `Resample.c` and, for `nearest`, `Geometry.c` of Pillow.
 */

/** Pixels of 8 bits, row by row, `channels` of each beside each other. */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  readonly channels: number;
  readonly data: Uint8Array;
}

interface Filter {
  /** How far from its middle it is not 0, in pixels. */
  readonly support: number;
  weight(x: number): number;
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

const CUBIC = -0.5;
/** There they are float32. */
const HAMMING = [Math.fround(0.54), Math.fround(0.46)] as const;

/** By the names that bundles have for them; `nearest` is none, as it weighs nothing. */
const FILTERS: Readonly<Record<string, Filter>> = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(1 - Math.abs(x), 0) },
  hamming: {
    support: 1,
    weight: (x) => {
      const size = Math.abs(x);
      if (size === 0) return 1;
      return size >= 1 ? 0 : sinc(size) * (HAMMING[0] + HAMMING[1] * Math.cos(size * Math.PI));
    },
  },
  bicubic: {
    support: 2,
    weight: (x) => {
      const size = Math.abs(x);
      if (size < 1) return ((CUBIC + 2) * size - (CUBIC + 3)) * size * size + 1;
      return size < 2 ? (((size - 5) * size + 8) * size - 4) * CUBIC : 0;
    },
  },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** Bits behind the point of a weight. */
const PRECISION = 22;

/** For each place of a line: the first pixel that goes into it, and the weight of that and those behind it. */
interface Weights {
  readonly first: Int32Array;
  readonly weights: readonly Int32Array[];
}

function weightsOf(from: number, to: number, filter: Filter): Weights {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const first = new Int32Array(to);
  const weights: Int32Array[] = [];
  for (let place = 0; place < to; place++) {
    const centre = (place + 0.5) * scale;
    const start = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), from);
    const inverse = 1 / stretch;
    const exact: number[] = [];
    let sum = 0;
    for (let pixel = start; pixel < end; pixel++) {
      const weight = filter.weight((pixel - centre + 0.5) * inverse);
      exact.push(weight);
      sum += weight;
    }
    first[place] = start;
    const fixed = exact.map((weight) => {
      const share = (sum === 0 ? weight : weight / sum) * 2 ** PRECISION;
      return Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    });
    weights.push(Int32Array.from(fixed));
  }
  return { first, weights };
}

/** One pass along the lines of a picture; the lines of what comes out are the columns of what went in. */
function alongLines({ width, height, channels, data }: Pixels, to: number, filter: Filter): Pixels {
  const { first, weights } = weightsOf(width, to, filter);
  const resized = new Uint8Array(to * height * channels);
  for (let row = 0; row < height; row++) {
    for (let place = 0; place < to; place++) {
      const shares = weights[place]!;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (PRECISION - 1);
        let at = (row * width + first[place]!) * channels + channel;
        for (let index = 0; index < shares.length; index++, at += channels) sum += data[at]! * shares[index]!;
        resized[(place * height + row) * channels + channel] = Math.min(Math.max(sum >> PRECISION, 0), 255);
      }
    }
  }
  return { width: height, height: to, channels, data: resized };
}

function turned({ width, height, channels, data }: Pixels): Pixels {
  const other = new Uint8Array(data.length);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      for (let channel = 0; channel < channels; channel++) {
        other[(column * height + row) * channels + channel] = data[(row * width + column) * channels + channel]!;
      }
    }
  }
  return { width: height, height: width, channels, data: other };
}

function nearest({ width, height, channels, data }: Pixels, toWidth: number, toHeight: number): Pixels {
  const places = (from: number, to: number): number[] => {
    const scale = from / to;
    let at = scale * 0.5; // added up as there, so that it rounds as there
    return Array.from({ length: to }, () => {
      const place = Math.min(Math.trunc(at), from - 1);
      at += scale;
      return place;
    });
  };
  const [columns, rows] = [places(width, toWidth), places(height, toHeight)];
  const resized = new Uint8Array(toWidth * toHeight * channels);
  let at = 0;
  for (const row of rows) {
    for (const column of columns) {
      for (let channel = 0; channel < channels; channel++) {
        resized[at++] = data[(row * width + column) * channels + channel]!;
      }
    }
  }
  return { width: toWidth, height: toHeight, channels, data: resized };
}

/**
 * A picture in another size.
 *
 * @param resample one of the filters that a bundle can name.
 */
export function resized(pixels: Pixels, width: number, height: number, resample: string): Pixels {
  const filter = FILTERS[resample];
  if (filter === undefined) return nearest(pixels, width, height);
  const lines = pixels.width === width ? turned(pixels) : alongLines(pixels, width, filter);
  return lines.width === height ? turned(lines) : alongLines(lines, height, filter);
}
