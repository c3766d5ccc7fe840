// Quantiles of the normal distribution.
#pragma once

#include <cmath>

namespace adaptrt::control {

// The value below which a share of `p` lies (Wichura, Algorithm AS 241, PPND16; relative error about 1e-16).
inline double normal_quantile(double p, double mean, double deviation) {
  // In this order: a choice lies on a grid, and one last bit can turn into a step of it.
  const auto ratio = [](double r, const double (&above)[8], const double (&below)[7], double factor) {
    double numerator = above[7], denominator = below[6];
    for (int i = 6; i >= 0; --i) numerator = numerator * r + above[i];
    for (int i = 5; i >= 0; --i) denominator = denominator * r + below[i];
    return numerator * factor / (denominator * r + 1.0);
  };
  const double q = p - 0.5;
  if (std::fabs(q) <= 0.425) {
    static constexpr double a[8] = {3.38713287279636660800e+0, 1.33141667891784377450e+2, 1.97159095030655144270e+3,
                                    1.37316937655094611250e+4, 4.59219539315498714570e+4, 6.72657709270087008530e+4,
                                    3.34305755835881281050e+4, 2.50908092873012267270e+3};
    static constexpr double b[7] = {4.23133307016009112520e+1, 6.87187007492057908300e+2, 5.39419602142475110770e+3,
                                    2.12137943015865958670e+4, 3.93078958000927106100e+4, 2.87290857357219426740e+4,
                                    5.22649527885285456100e+3};
    const double r = 0.180625 - q * q;
    return mean + ratio(r, a, b, q) * deviation;
  }
  double r = std::sqrt(-std::log(q <= 0.0 ? p : 1.0 - p));
  double x = 0;
  if (r <= 5.0) {
    static constexpr double c[8] = {1.42343711074968357734e+0, 4.63033784615654529590e+0, 5.76949722146069140550e+0,
                                    3.64784832476320460504e+0, 1.27045825245236838258e+0, 2.41780725177450611770e-1,
                                    2.27238449892691845833e-2, 7.74545014278341407640e-4};
    static constexpr double d[7] = {2.05319162663775882187e+0, 1.67638483018380384940e+0, 6.89767334985100004550e-1,
                                    1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
                                    1.05075007164441684324e-9};
    r -= 1.6;
    x = ratio(r, c, d, 1.0);
  } else {
    static constexpr double e[8] = {6.65790464350110377720e+0, 5.46378491116411436990e+0, 1.78482653991729133580e+0,
                                    2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                    2.71155556874348757815e-5, 2.01033439929228813265e-7};
    static constexpr double f[7] = {5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
                                    7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
                                    2.04426310338993978564e-15};
    r -= 5.0;
    x = ratio(r, e, f, 1.0);
  }
  return mean + (q < 0.0 ? -x : x) * deviation;
}

}  // namespace adaptrt::control
