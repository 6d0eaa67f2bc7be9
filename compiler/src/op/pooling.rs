//! Pooling over windows of two spatial axes, and its gradients.

use super::infer::{expect, image, operand_count, unary};
use super::spatial::Axis;
use super::{Cost, NoGradient, Operator, Reference, ShapeError};
use crate::ir::{Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// Where the windows of a pooling lie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Rows and columns of a window.
    pub kernel: [usize; 2],
    /// Rows and columns between neighbouring windows.
    pub strides: [usize; 2],
    /// Padding: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Rows and columns between neighbouring positions of a window.
    pub dilations: [usize; 2],
    /// Whether a last window may reach beyond the padding.
    pub ceil: bool,
}

/// x `[N, C, H, W]` -> the largest of each window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxPool {
    /// Where the windows lie.
    pub window: Window,
}

/// (x, dy) -> dx: each window's gradient goes to its first largest element.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxPoolGradient {
    /// Where the windows lie.
    pub window: Window,
}

/// x `[N, C, H, W]` -> the mean of each window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AveragePool {
    /// Where the windows lie.
    pub window: Window,
    /// Whether padding counts in the divisor (as zeros).
    pub include_padding: bool,
}

/// dy -> dx `[N, C, rows, width]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AveragePoolGradient {
    /// Where the windows lie.
    pub window: Window,
    /// Whether padding counts in the divisor.
    pub include_padding: bool,
    /// Rows of x.
    pub rows: usize,
    /// Columns of x.
    pub width: usize,
}

impl Window {
    /// Rows and columns of y for x of `rows` by `columns`.
    ///
    /// # Errors
    /// A window does not fit into x and its padding, a stride or dilation is 0, or a window holds no element of x at all.
    pub fn output_extents(&self, rows: usize, columns: usize) -> Result<[usize; 2], ShapeError> {
        let mut extents = [0; 2];
        for (extent, axis) in extents.iter_mut().zip(self.axes([rows, columns])) {
            *extent = axis.outputs("pooling", self.ceil)?;
            if axis.taps(*extent).iter().any(Vec::is_empty) {
                return Err(ShapeError::new(
                    format!("pooling of {rows} x {columns}: a window lies in the padding altogether"),
                    "padding must be less than the kernel, and every window must reach an element",
                ));
            }
        }
        Ok(extents)
    }

    pub(crate) fn axes(&self, input: [usize; 2]) -> [Axis; 2] {
        [0, 1].map(|i| Axis {
            input: input[i],
            kernel: self.kernel[i],
            stride: self.strides[i],
            dilation: self.dilations[i],
            before: self.pads[i],
            after: self.pads[i + 2],
        })
    }

    fn infer_output(&self, op: &str, x: &Shape) -> Result<Shape, ShapeError> {
        let [channels, rows, columns] = image(op, "x", x)?;
        let [rows, columns] = self.output_extents(rows, columns)?;
        Ok(Shape::batched(&[channels, rows, columns]))
    }

    /// Shape of y as numbers, and a function of (y element, the x elements its window reads, its kernel positions with padding)
    /// that is called for every element of y in order.
    fn each_window(&self, x: &[usize], y: &[usize], mut visit: impl FnMut(usize, &[usize], usize)) {
        let [vertical, horizontal] = self.axes([x[2], x[3]]);
        let (row_taps, column_taps) = (vertical.taps(y[2]), horizontal.taps(y[3]));
        let mut elements = Vec::new();
        for plane in 0..y[0] * y[1] {
            for (row, rows) in row_taps.iter().enumerate() {
                for (column, columns) in column_taps.iter().enumerate() {
                    elements.clear();
                    elements.extend(rows.iter().flat_map(|r| columns.iter().map(move |c| (plane * x[2] + r) * x[3] + c)));
                    let padded = vertical.padded_taps(row) * horizontal.padded_taps(column);
                    visit((plane * y[2] + row) * y[3] + column, &elements, padded);
                }
            }
        }
    }

    /// Dimensions of y for those of x that `infer` accepted.
    fn output_dims(&self, x: &[usize]) -> Vec<usize> {
        let [vertical, horizontal] = self.axes([x[2], x[3]]);
        let extent = |axis: Axis| axis.outputs("pooling", self.ceil).unwrap_or(0);
        vec![x[0], x[1], extent(vertical), extent(horizontal)]
    }

    fn positions(&self) -> f64 {
        (self.kernel[0] * self.kernel[1]) as f64
    }
}

fn largest(x: &[f64], elements: &[usize]) -> usize {
    elements.iter().copied().fold(elements[0], |best, i| if x[i] > x[best] { i } else { best })
}

impl Operator for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![self.window.infer_output(self.name(), unary(self.name(), inputs)?)?])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let x = builder.input(0);
        let op = MaxPoolGradient { window: self.window.clone() };
        Ok(vec![gradients[0].map(|dy| builder.add(op, &[x, dy])[0])])
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(self.window.positions(), outputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let x = inputs[0];
        let mut y = Reference::full(&self.window.output_dims(&x.dims), 0.0);
        let dims = y.dims.clone();
        self.window.each_window(&x.dims, &dims, |i, elements, _| y.values[i] = x.values[largest(&x.values, elements)]);
        vec![y]
    }
}

impl Operator for MaxPoolGradient {
    fn name(&self) -> &'static str {
        "max_pool_gradient"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [x, dy] = inputs else { return Err(operand_count(self.name(), "(x, dy)", inputs)) };
        expect(self.name(), "dy", dy, &self.window.infer_output(self.name(), x)?)?;
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::per_element(self.window.positions() + 1.0, inputs[1])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let [x, dy] = [inputs[0], inputs[1]];
        let mut dx = Reference::full(&x.dims, 0.0);
        self.window.each_window(&x.dims, &dy.dims, |i, elements, _| dx.values[largest(&x.values, elements)] += dy.values[i]);
        vec![dx]
    }
}

impl Operator for AveragePool {
    fn name(&self) -> &'static str {
        "average_pool"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![self.window.infer_output(self.name(), unary(self.name(), inputs)?)?])
    }

    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let x = builder.shape(builder.input(0)).fixed();
        let op = AveragePoolGradient { window: self.window.clone(), include_padding: self.include_padding, rows: x[1], width: x[2] };
        Ok(vec![gradients[0].map(|dy| builder.add(op, &[dy])[0])])
    }

    fn cost(&self, _inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        Cost::per_element(self.window.positions(), outputs[0])
    }

    /// With padding in the divisor, what lies beyond the padding (a last window of `ceil`) still does not count.
    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let x = inputs[0];
        let mut y = Reference::full(&self.window.output_dims(&x.dims), 0.0);
        let dims = y.dims.clone();
        self.window.each_window(&x.dims, &dims, |i, elements, padded| {
            let count = if self.include_padding { padded } else { elements.len() };
            y.values[i] = elements.iter().map(|&e| x.values[e]).sum::<f64>() / count as f64;
        });
        vec![y]
    }
}

impl Operator for AveragePoolGradient {
    fn name(&self) -> &'static str {
        "average_pool_gradient"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let dy = unary(self.name(), inputs)?;
        let [channels, ..] = image(self.name(), "dy", dy)?;
        let x = Shape::batched(&[channels, self.rows, self.width]);
        expect(self.name(), "dy", dy, &self.window.infer_output(self.name(), &x)?)?;
        Ok(vec![x])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost::per_element(self.window.positions() + 1.0, inputs[0])
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let dy = inputs[0];
        let mut dx = Reference::full(&[dy.dims[0], dy.dims[1], self.rows, self.width], 0.0);
        let dims = dx.dims.clone();
        self.window.each_window(&dims, &dy.dims, |i, elements, padded| {
            let count = if self.include_padding { padded } else { elements.len() };
            elements.iter().for_each(|&e| dx.values[e] += dy.values[i] / count as f64);
        });
        vec![dx]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, pad: usize, ceil: bool) -> Window {
        Window { kernel: [kernel; 2], strides: [stride; 2], pads: [pad; 4], dilations: [1; 2], ceil }
    }

    fn image(dims: [usize; 2], values: &[f64]) -> Reference {
        Reference { dims: vec![1, 1, dims[0], dims[1]], values: values.to_vec() }
    }

    #[test]
    fn the_first_largest_takes_the_gradient() {
        let x = image([2, 3], &[1.0, 5.0, 5.0, 5.0, 2.0, 3.0]);
        let window = window(2, 1, 0, false);
        assert_eq!(MaxPool { window: window.clone() }.evaluate(&[&x])[0].values, [5.0, 5.0]);
        let dx = MaxPoolGradient { window }.evaluate(&[&x, &image([1, 2], &[1.0, 10.0])]);
        assert_eq!(dx[0].values, [0.0, 11.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn padding_is_never_the_largest() {
        let y = MaxPool { window: window(2, 1, 1, false) }.evaluate(&[&image([1, 1], &[-3.0])]);
        assert_eq!(y[0].values, [-3.0; 4]);
    }

    #[test]
    fn divisors_with_and_without_padding() {
        let x = image([3, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        let pool = |include_padding| AveragePool { window: window(2, 2, 1, false), include_padding }.evaluate(&[&x]).remove(0).values;
        assert_eq!(pool(false), [1.0, 2.5, 5.5, 7.0]);
        assert_eq!(pool(true), [0.25, 1.25, 2.75, 7.0]);
        let beyond = AveragePool { window: window(2, 2, 0, true), include_padding: true }.evaluate(&[&x]).remove(0);
        assert_eq!(beyond.values, [3.0, 4.5, 7.5, 9.0]);
    }

    #[test]
    fn windows_of_nothing_but_padding_are_refused() {
        let x = Shape::batched(&[1, 4, 4]);
        assert!(MaxPool { window: window(2, 2, 2, false) }.infer(&[&x]).is_err());
        assert_eq!(MaxPool { window: window(3, 2, 1, false) }.infer(&[&x]).unwrap(), [Shape::batched(&[1, 2, 2])]);
        let gap = Window { dilations: [5, 1], pads: [1, 0, 1, 0], ..window(2, 1, 0, false) };
        assert!(MaxPool { window: gap }.infer(&[&x]).is_err());
    }
}
