/**
 * Reading JSON as bundles need it: whole numbers of any size exactly, and fractions told from them, which `JSON.parse`
 * does not do. Objects have no prototype, so that no name in a file can be mistaken for a method.
 */

const MAX_DEPTH = 500;
const ESCAPED: Record<string, string> = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/uy;
const PLAIN = /[^"\\\u0000-\u001f]*/uy;
const SPACE = /[ \t\n\r]*/uy;

/** A number that is written with a point or a power. */
export class JsonFloat {
  constructor(readonly value: number) {}
}

export type Json = null | boolean | number | bigint | string | JsonFloat | Json[] | { [key: string]: Json };

/** What is wrong with a text that is no JSON. */
export class NoJson extends Error {}

/**
 * The value of a JSON text.
 *
 * @throws NoJson it is malformed, not UTF-8, nested too deep, or has a number that no float holds.
 */
export function parseJson(bytes: Uint8Array): Json {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new NoJson("not UTF-8");
  }
  return new Reader(text).whole();
}

class Reader {
  private place = 0;

  constructor(private readonly text: string) {}

  whole(): Json {
    const value = this.value(0);
    this.space();
    if (this.place < this.text.length) throw this.wrong("trailing characters");
    return value;
  }

  private value(depth: number): Json {
    if (depth > MAX_DEPTH) throw this.wrong("nested too deep");
    this.space();
    switch (this.text[this.place]) {
      case "{":
        return this.object(depth);
      case "[":
        return this.array(depth);
      case '"':
        return this.string();
      case "t":
        return this.word("true", true);
      case "f":
        return this.word("false", false);
      case "n":
        return this.word("null", null);
      default:
        return this.number();
    }
  }

  private object(depth: number): Json {
    const content = Object.create(null) as { [key: string]: Json };
    this.place++;
    if (this.ends("}")) return content;
    for (;;) {
      this.space();
      if (this.text[this.place] !== '"') throw this.wrong("expected a key");
      const key = this.string();
      this.space();
      if (this.text[this.place] !== ":") throw this.wrong("expected ':'");
      this.place++;
      content[key] = this.value(depth + 1);
      if (this.ends("}")) return content;
      this.comma();
    }
  }

  private array(depth: number): Json {
    const content: Json[] = [];
    this.place++;
    if (this.ends("]")) return content;
    for (;;) {
      content.push(this.value(depth + 1));
      if (this.ends("]")) return content;
      this.comma();
    }
  }

  private string(): string {
    let content = "";
    this.place++;
    for (;;) {
      PLAIN.lastIndex = this.place;
      const plain = PLAIN.exec(this.text)![0];
      content += plain;
      this.place += plain.length;
      const sign = this.text[this.place];
      if (sign === '"') {
        this.place++;
        return content;
      }
      if (sign !== "\\") throw this.wrong("invalid character");
      content += this.escape();
    }
  }

  private escape(): string {
    const sign = this.text[this.place + 1] ?? "";
    if (sign in ESCAPED) {
      this.place += 2;
      return ESCAPED[sign]!;
    }
    const digits = this.text.slice(this.place + 2, this.place + 6);
    if (sign !== "u" || !/^[0-9a-fA-F]{4}$/u.test(digits)) throw this.wrong("invalid escape");
    this.place += 6;
    return String.fromCharCode(parseInt(digits, 16));
  }

  private number(): Json {
    NUMBER.lastIndex = this.place;
    const match = NUMBER.exec(this.text);
    if (match === null) throw this.wrong("invalid character");
    const value = Number(match[0]);
    if (!Number.isFinite(value)) throw this.wrong("number out of range");
    this.place += match[0].length;
    if (match[1] !== undefined || match[2] !== undefined) return new JsonFloat(value);
    return Number.isSafeInteger(value) ? value : BigInt(match[0]);
  }

  private word<T extends Json>(word: string, value: T): T {
    if (!this.text.startsWith(word, this.place)) throw this.wrong("invalid character");
    this.place += word.length;
    return value;
  }

  private ends(sign: string): boolean {
    this.space();
    if (this.text[this.place] !== sign) return false;
    this.place++;
    return true;
  }

  private comma(): void {
    if (this.text[this.place] !== ",") throw this.wrong("expected ','");
    this.place++;
  }

  private space(): void {
    SPACE.lastIndex = this.place;
    this.place += SPACE.exec(this.text)![0].length;
  }

  private wrong(what: string): NoJson {
    if (this.place >= this.text.length) return new NoJson("Input data was truncated");
    return new NoJson(`JSON is malformed: ${what} (character ${this.place})`);
  }
}
