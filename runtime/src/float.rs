//! Functions of floats that `core` does not have.

/// As the methods of `std`.
pub(crate) trait Float: Sized {
    /// The square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// The nearest whole number, halves away from 0.
    fn round(self) -> Self;
    /// The least whole number that is no less.
    fn ceil(self) -> Self;
    /// The cosine of radians.
    fn cos(self) -> Self;
    /// e to this power.
    fn exp(self) -> Self;
    /// This to a power.
    fn powi(self, power: i32) -> Self;
}

impl Float for f64 {
    fn sqrt(self) -> Self {
        libm::sqrt(self)
    }

    fn round(self) -> Self {
        libm::round(self)
    }

    fn ceil(self) -> Self {
        libm::ceil(self)
    }

    fn cos(self) -> Self {
        libm::cos(self)
    }

    fn exp(self) -> Self {
        libm::exp(self)
    }

    fn powi(self, power: i32) -> Self {
        libm::pow(self, f64::from(power))
    }
}

impl Float for f32 {
    fn sqrt(self) -> Self {
        libm::sqrtf(self)
    }

    fn round(self) -> Self {
        libm::roundf(self)
    }

    fn ceil(self) -> Self {
        libm::ceilf(self)
    }

    fn cos(self) -> Self {
        libm::cosf(self)
    }

    fn exp(self) -> Self {
        libm::expf(self)
    }

    fn powi(self, power: i32) -> Self {
        libm::powf(self, power as f32)
    }
}
