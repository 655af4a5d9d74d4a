//! Lloyd-Max codebooks: the levels with the least mean squared error for a density, each the mean of the cell whose edges lie
//! halfway to its neighbours.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_PI_2, PI};

/// Rounds at most, and the change at which the search ends.
const ROUNDS: usize = 50_000;
const CHANGE: f64 = 1e-12;

/// A density on a line: what the search asks of it.
trait Density {
    /// The ends between which it is looked at.
    fn ends(&self) -> (f64, f64);
    /// The mass of `[a, b]`, up to a common factor.
    fn mass(&self, a: f64, b: f64) -> f64;
    /// The integral of `x` over `[a, b]`, up to the same factor.
    fn moment(&self, a: f64, b: f64) -> f64;
}

/// The `num_levels` Lloyd-Max levels of N(0, 1), ascending; none for 0.
#[must_use]
pub fn compute_lloyd_max_codebook(num_levels: usize) -> Vec<f64> {
    lloyd_max(&Normal, num_levels)
}

/// The `num_levels` Lloyd-Max levels, ascending, of one coordinate of a uniformly distributed unit vector of `dim`
/// coordinates: its density is proportional to `(1 - x²)^((dim - 3)/2)` on [-1, 1]. The levels are not scaled by `√dim`. A
/// `dim` below 2 counts as 2.
#[must_use]
pub fn compute_lloyd_max_beta_codebook(dim: usize, num_levels: usize) -> Vec<f64> {
    lloyd_max(&Coordinate::new(dim.max(2)), num_levels)
}

fn lloyd_max(density: &impl Density, num_levels: usize) -> Vec<f64> {
    let (low, high) = density.ends();
    let total = density.mass(low, high);
    let mut levels: Vec<f64> = (0..num_levels)
        .map(|i| quantile(density, (i as f64 + 0.5) / num_levels as f64 * total))
        .collect();
    for _ in 0..ROUNDS {
        let mut change = 0.0f64;
        let mut left = low;
        for i in 0..num_levels {
            let right = levels.get(i + 1).map_or(high, |next| (levels[i] + next) / 2.0);
            let mass = density.mass(left, right);
            if mass > 0.0 {
                let mean = density.moment(left, right) / mass;
                change = change.max((mean - levels[i]).abs());
                levels[i] = mean;
            }
            left = right;
        }
        if change < CHANGE {
            break;
        }
    }
    levels
}

/// Where the mass from the left end on reaches `target`.
fn quantile(density: &impl Density, target: f64) -> f64 {
    let (start, mut high) = density.ends();
    let mut low = start;
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        if density.mass(start, middle) < target {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

struct Normal;

impl Density for Normal {
    fn ends(&self) -> (f64, f64) {
        (-10.0, 10.0)
    }

    fn mass(&self, a: f64, b: f64) -> f64 {
        // From the nearer tail, so that small masses keep their digits.
        let tail = |x: f64| libm::erfc(x * FRAC_1_SQRT_2) / 2.0;
        if a > 0.0 {
            tail(a) - tail(b)
        } else {
            tail(-b) - tail(-a)
        }
    }

    fn moment(&self, a: f64, b: f64) -> f64 {
        let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * PI).sqrt();
        density(a) - density(b)
    }
}

/// With `x = sin t` the density is `cos(t)^(dim - 2) dt`, smooth up to the ends.
struct Coordinate {
    dim: f64,
    /// The end in `t`: beyond 14 standard deviations nothing is left.
    end: f64,
    /// Integrals of the density from `-end` to the edges of equal cells.
    sums: Vec<f64>,
}

impl Coordinate {
    const CELLS: usize = 4096;

    fn new(dim: usize) -> Self {
        let end = FRAC_PI_2.min(14.0 / (dim as f64).sqrt());
        let mut all = Coordinate {
            dim: dim as f64,
            end,
            sums: vec![0.0],
        };
        let mut sum = 0.0;
        for i in 0..Self::CELLS {
            sum += all.gauss(all.edge(i), all.edge(i + 1));
            all.sums.push(sum);
        }
        all
    }

    fn edge(&self, i: usize) -> f64 {
        self.end * (2.0 * i as f64 / Self::CELLS as f64 - 1.0)
    }

    /// The integral over less than a cell, by Gauss's rule with three points.
    fn gauss(&self, a: f64, b: f64) -> f64 {
        let (middle, half) = ((a + b) / 2.0, (b - a) / 2.0);
        let at = |offset: f64| (middle + half * offset).cos().powf(self.dim - 2.0);
        let far = 0.6f64.sqrt();
        half * (5.0 * at(-far) + 8.0 * at(0.0) + 5.0 * at(far)) / 9.0
    }

    /// The integral from the left end to `x`.
    fn below(&self, x: f64) -> f64 {
        let t = x.clamp(-1.0, 1.0).asin().clamp(-self.end, self.end);
        let cell = ((t / self.end + 1.0) / 2.0 * Self::CELLS as f64) as usize;
        let cell = cell.min(Self::CELLS - 1);
        self.sums[cell] + self.gauss(self.edge(cell), t)
    }
}

impl Density for Coordinate {
    fn ends(&self) -> (f64, f64) {
        (-self.end.sin(), self.end.sin())
    }

    fn mass(&self, a: f64, b: f64) -> f64 {
        self.below(b) - self.below(a)
    }

    fn moment(&self, a: f64, b: f64) -> f64 {
        let power = |x: f64| (1.0 - x * x).max(0.0).powf((self.dim - 1.0) / 2.0);
        (power(a) - power(b)) / (self.dim - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_levels_are_known_in_closed_form() {
        let normal = compute_lloyd_max_codebook(2);
        assert!((normal[1] - (2.0 / PI).sqrt()).abs() < 1e-9, "{normal:?}");
        // dim 3: a coordinate of a point on the sphere is uniform.
        let uniform = compute_lloyd_max_beta_codebook(3, 4);
        for (got, want) in uniform.iter().zip([-0.75, -0.25, 0.25, 0.75]) {
            assert!((got - want).abs() < 1e-8, "{uniform:?}");
        }
        // dim 2: the mean of |cos| over a circle.
        let circle = compute_lloyd_max_beta_codebook(2, 2);
        assert!((circle[1] - 2.0 / PI).abs() < 1e-8, "{circle:?}");
    }

    #[test]
    fn a_coordinate_of_many_is_nearly_normal() {
        let (dim, n) = (1 << 16, 8);
        let normal = compute_lloyd_max_codebook(n);
        let coordinate = compute_lloyd_max_beta_codebook(dim, n);
        for (a, b) in normal.iter().zip(&coordinate) {
            assert!((a - b * (dim as f64).sqrt()).abs() < 1e-3, "{a} {b}");
        }
    }

    #[test]
    fn odd_numbers_of_levels_and_none() {
        assert!(compute_lloyd_max_codebook(0).is_empty() && compute_lloyd_max_beta_codebook(0, 0).is_empty());
        assert!(compute_lloyd_max_codebook(1)[0].abs() < 1e-9);
        let three = compute_lloyd_max_beta_codebook(128, 3);
        assert!(three[1].abs() < 1e-9 && (three[0] + three[2]).abs() < 1e-9);
    }
}
