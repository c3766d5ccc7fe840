/**
 * The quantiles of the normal distribution: rational approximations of 16 digits (Wichura, "Algorithm AS 241: The
 * Percentage Points of the Normal Distribution", Applied Statistics 37, 1988). The coefficients are the paper's.
 */

/** A polynomial by falling powers. */
function polynomial(coefficients: readonly number[], x: number): number {
  return coefficients.reduce((sum, coefficient) => sum * x + coefficient);
}

const CENTRAL = {
  above: [
    2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
    1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.387132872796366608,
  ],
  below: [
    5.226495278852854561e3, 2.8729085735721942674e4, 3.930789580009271061e4, 2.1213794301586595867e4,
    5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1,
  ],
};
const MIDDLE = {
  above: [
    7.7454501427834140764e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258,
    3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734,
  ],
  below: [
    1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
    6.89767334985100004550e-1, 1.67638483018380384940, 2.05319162663775882187, 1,
  ],
};
const TAIL = {
  above: [
    2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
    2.96560571828504891230e-1, 1.78482653991729133580, 5.46378491116411436990, 6.65790464350110377720,
  ],
  below: [
    2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
    1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1,
  ],
};

/** The value that a share of the distribution lies under; `share` between 0 and 1. */
export function normalQuantile(share: number, mean = 0, deviation = 1): number {
  const q = share - 0.5;
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q;
    return mean + ((polynomial(CENTRAL.above, r) * q) / polynomial(CENTRAL.below, r)) * deviation;
  }
  const r = Math.sqrt(-Math.log(q <= 0 ? share : 1 - share));
  const { above, below } = r <= 5 ? MIDDLE : TAIL;
  const x = polynomial(above, r - (r <= 5 ? 1.6 : 5)) / polynomial(below, r - (r <= 5 ? 1.6 : 5));
  return mean + (q < 0 ? -x : x) * deviation;
}
