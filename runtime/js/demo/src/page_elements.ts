/** The elements of the page, by their ids. */

/** The element of an id, of the class that it must have. */
export function element<T extends Element>(id: string, kind: new () => T): T {
  const one = document.getElementById(id);
  if (!(one instanceof kind)) throw new TypeError(`index.html has no ${kind.name} with the id ${id}`);
  return one;
}

/** Show one or hide it. */
export function visible(id: string, shown: boolean): void {
  element(id, HTMLElement).hidden = !shown;
}
