//! Geometry along one spatial axis, shared by convolution and pooling.

use super::ShapeError;
use std::ops::Range;

/// One axis of a sliding window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub(crate) input: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    pub(crate) before: usize,
    pub(crate) after: usize,
}

impl Axis {
    /// Inputs from the first to the last position of a window.
    pub(crate) fn reach(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }

    /// Number of windows; with `ceil` a last one may reach beyond the padding, but must begin before it.
    pub(crate) fn outputs(&self, op: &str, ceil: bool) -> Result<usize, ShapeError> {
        if self.kernel == 0 || self.stride == 0 || self.dilation == 0 {
            return Err(ShapeError::new(format!("{op}: kernel, stride or dilation is 0"), "each must be at least 1"));
        }
        let (padded, reach) = (self.input + self.before + self.after, self.reach());
        let Some(room) = padded.checked_sub(reach) else {
            return Err(ShapeError::new(
                format!("{op}: a window reaches over {reach} of {padded} rows or columns (padding included)"),
                "use a smaller kernel, or more padding",
            ));
        };
        if !ceil {
            return Ok(room / self.stride + 1);
        }
        let outputs = room.div_ceil(self.stride) + 1;
        let begins_inside = (outputs - 1) * self.stride < self.input + self.before;
        Ok(if begins_inside { outputs } else { outputs - 1 })
    }

    /// Outputs (of `outputs`) whose kernel position `k` lies inside the input.
    pub(crate) fn span(&self, k: usize, outputs: usize) -> Range<usize> {
        let tap = k * self.dilation;
        let first = self.before.saturating_sub(tap).div_ceil(self.stride).min(outputs);
        let end = (self.input + self.before).saturating_sub(tap).div_ceil(self.stride).min(outputs);
        first..end.max(first)
    }

    /// The input that kernel position `k` of output `o` reads; only for `o` in the position's span.
    pub(crate) fn position(&self, o: usize, k: usize) -> usize {
        o * self.stride + k * self.dilation - self.before
    }

    /// Inputs that the windows read, as (output, input), by output and then by kernel position.
    pub(crate) fn taps(&self, outputs: usize) -> Vec<Vec<usize>> {
        (0..outputs)
            .map(|o| (0..self.kernel).filter(|&k| self.span(k, outputs).contains(&o)).map(|k| self.position(o, k)).collect())
            .collect()
    }

    /// Kernel positions of output `o` that lie inside the input or its padding.
    pub(crate) fn padded_taps(&self, o: usize) -> usize {
        let end = self.input + self.before + self.after;
        (0..self.kernel).filter(|k| o * self.stride + k * self.dilation < end).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_taps_agree_with_the_definition() {
        for (input, kernel, stride, dilation, before, after) in
            [(7, 3, 2, 1, 1, 0), (5, 2, 3, 3, 2, 1), (4, 5, 1, 1, 4, 4), (1, 3, 1, 1, 1, 1)]
        {
            let axis = Axis { input, kernel, stride, dilation, before, after };
            let outputs = axis.outputs("test", false).unwrap();
            for (o, taps) in axis.taps(outputs).into_iter().enumerate() {
                let wanted: Vec<usize> =
                    (0..kernel).filter_map(|k| (o * stride + k * dilation).checked_sub(before)).filter(|&i| i < input).collect();
                assert_eq!(taps, wanted, "{axis:?} output {o}");
            }
        }
    }

    #[test]
    fn ceil_adds_a_window_only_if_it_begins_inside() {
        let axis = Axis { input: 6, kernel: 3, stride: 2, dilation: 1, before: 0, after: 0 };
        assert_eq!((axis.outputs("test", false).unwrap(), axis.outputs("test", true).unwrap()), (2, 3));
        let axis = Axis { input: 3, kernel: 1, stride: 3, dilation: 1, before: 0, after: 1 };
        assert_eq!(axis.outputs("test", true).unwrap(), 1);
        assert!(Axis { input: 2, kernel: 3, ..axis }.outputs("test", false).is_ok_and(|n| n == 1));
        assert!(Axis { input: 1, kernel: 3, ..axis }.outputs("test", false).is_err());
    }
}
