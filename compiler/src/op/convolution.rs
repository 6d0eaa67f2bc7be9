//! Two-dimensional convolution and its gradients.

use super::infer::{expect, image, operand_count};
use super::spatial::Axis;
use super::{Cost, NoGradient, Operator, Reference, Reshape, ShapeError};
use crate::ir::{Dim, Shape, Value};
use crate::pass::differentiate::GradientBuilder;
use serde::{Deserialize, Serialize};

/// 2-d convolution: x `[N, C, H, W]`, w `[O, C/g, kh, kw]`, optional bias `[O]` -> y `[N, O, H', W']`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Convolution {
    /// Rows and columns between neighbouring outputs.
    pub strides: [usize; 2],
    /// Rows and columns between neighbouring kernel positions.
    pub dilations: [usize; 2],
    /// Zeros around x: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

/// (x, w, dy) -> (dx, dw): both gradients in one sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvolutionBackward {
    /// The convolution it belongs to.
    pub forward: Convolution,
}

/// (x, w, dy) -> dw, where nobody needs dx.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvolutionWeightGradient {
    /// The convolution it belongs to.
    pub forward: Convolution,
}

/// Outputs of one row that one weight contributes to: `y..y + len` from `x`, `x + column stride`, ..
struct Run {
    x: usize,
    w: usize,
    y: usize,
    len: usize,
}

impl Convolution {
    /// Rows and columns of y for x of `rows` by `columns` and a kernel of `kernel`.
    ///
    /// # Errors
    /// The kernel does not fit into x and its padding, or a stride or dilation is 0.
    pub fn output_extents(&self, rows: usize, columns: usize, kernel: [usize; 2]) -> Result<[usize; 2], ShapeError> {
        let [vertical, horizontal] = self.axes([rows, columns], kernel);
        Ok([vertical.outputs("convolution", false)?, horizontal.outputs("convolution", false)?])
    }

    pub(crate) fn axes(&self, input: [usize; 2], kernel: [usize; 2]) -> [Axis; 2] {
        [0, 1].map(|i| Axis {
            input: input[i],
            kernel: kernel[i],
            stride: self.strides[i],
            dilation: self.dilations[i],
            before: self.pads[i],
            after: self.pads[i + 2],
        })
    }

    /// Shape of y, after checking x and w.
    fn infer_output(&self, op: &str, x: &Shape, w: &Shape) -> Result<Shape, ShapeError> {
        let [channels, rows, columns] = image(op, "x", x)?;
        let [Dim::Fixed(outputs), Dim::Fixed(per_group), Dim::Fixed(kh), Dim::Fixed(kw)] = w.0[..] else {
            return Err(ShapeError::new(format!("{op}: w is {w}"), "it must be [outputs, inputs per group, kernel rows, kernel columns]"));
        };
        if self.groups == 0 || outputs % self.groups != 0 || per_group * self.groups != channels {
            return Err(ShapeError::new(
                format!("{op}: x {x} and w {w} in {} groups", self.groups),
                format!("groups must divide the {outputs} outputs, and w's second axis times groups must be the {channels} channels of x"),
            ));
        }
        let [rows, columns] = self.output_extents(rows, columns, [kh, kw])?;
        Ok(Shape::batched(&[outputs, rows, columns]))
    }

    fn infer_gradients(&self, op: &str, inputs: &[&Shape]) -> Result<[Shape; 2], ShapeError> {
        let [x, w, dy] = inputs else { return Err(operand_count(op, "(x, w, dy)", inputs)) };
        expect(op, "dy", dy, &self.infer_output(op, x, w)?)?;
        Ok([(*x).clone(), (*w).clone()])
    }

    fn each_run(&self, x: &[usize], w: &[usize], y: &[usize], mut visit: impl FnMut(Run)) {
        let [vertical, horizontal] = self.axes([x[2], x[3]], [w[2], w[3]]);
        let outputs_per_group = w[0] / self.groups;
        for plane in 0..y[0] * y[1] {
            let (example, output) = (plane / y[1], plane % y[1]);
            let first_channel = example * x[1] + output / outputs_per_group * w[1];
            for tap in 0..w[1] * w[2] * w[3] {
                let (channel, ky, kx) = (tap / (w[2] * w[3]), tap / w[3] % w[2], tap % w[3]);
                let columns = horizontal.span(kx, y[3]);
                if columns.is_empty() {
                    continue;
                }
                let column = horizontal.position(columns.start, kx);
                for row in vertical.span(ky, y[2]) {
                    visit(Run {
                        x: ((first_channel + channel) * x[2] + vertical.position(row, ky)) * x[3] + column,
                        w: output * w[1] * w[2] * w[3] + tap,
                        y: (plane * y[2] + row) * y[3] + columns.start,
                        len: columns.len(),
                    });
                }
            }
        }
    }

    fn evaluate_forward(&self, x: &Reference, w: &Reference, bias: Option<&Reference>) -> Reference {
        let [vertical, horizontal] = self.axes([x.dims[2], x.dims[3]], [w.dims[2], w.dims[3]]);
        let extents = [vertical, horizontal].map(|a| (a.input + a.before + a.after - a.reach()) / a.stride + 1);
        let mut y = Reference::full(&[x.dims[0], w.dims[0], extents[0], extents[1]], 0.0);
        let dims = y.dims.clone();
        let stride = self.strides[1];
        self.each_run(&x.dims, &w.dims, &dims, |run| {
            let weight = w.values[run.w];
            for (y, x) in y.values[run.y..run.y + run.len].iter_mut().zip(x.values[run.x..].iter().step_by(stride)) {
                *y += weight * x;
            }
        });
        if let Some(bias) = bias {
            let values = &mut y.values;
            Reference { dims, values: vec![] }.each_plane(|output, plane| values[plane].iter_mut().for_each(|y| *y += bias.values[output]));
        }
        y
    }

    fn evaluate_input_gradient(&self, x: &[usize], w: &Reference, dy: &Reference) -> Reference {
        let mut dx = Reference::full(x, 0.0);
        let stride = self.strides[1];
        self.each_run(x, &w.dims, &dy.dims, |run| {
            let weight = w.values[run.w];
            for (dx, dy) in dx.values[run.x..].iter_mut().step_by(stride).zip(&dy.values[run.y..run.y + run.len]) {
                *dx += weight * dy;
            }
        });
        dx
    }

    fn evaluate_weight_gradient(&self, x: &Reference, w: &[usize], dy: &Reference) -> Reference {
        let mut dw = Reference::full(w, 0.0);
        let stride = self.strides[1];
        self.each_run(&x.dims, w, &dy.dims, |run| {
            let products = dy.values[run.y..run.y + run.len].iter().zip(x.values[run.x..].iter().step_by(stride));
            dw.values[run.w] += products.map(|(dy, x)| dy * x).sum::<f64>();
        });
        dw
    }

    /// A multiply and an add for each weight that each output reads.
    fn sweep(w: &Shape, y: &Shape) -> f64 {
        2.0 * y.elements() as f64 * w.fixed()[1..].iter().product::<usize>() as f64
    }
}

impl Operator for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (x, w, bias) = match inputs {
            [x, w] => (x, w, None),
            [x, w, bias] => (x, w, Some(bias)),
            _ => return Err(operand_count(self.name(), "(x, w) or (x, w, bias)", inputs)),
        };
        let y = self.infer_output(self.name(), x, w)?;
        if let Some(bias) = bias {
            expect(self.name(), "the bias", bias, &Shape(w.0[..1].to_vec()))?;
        }
        Ok(vec![y])
    }

    /// Where only x needs a gradient (frozen weights), the dw of [`ConvolutionBackward`] is left unread.
    fn gradient(&self, builder: &mut GradientBuilder<'_>, gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        let mut results = vec![None; builder.inputs().len()];
        let Some(dy) = gradients[0] else { return Ok(results) };
        let operands = [builder.input(0), builder.input(1), dy];
        if builder.wants(0) {
            let both = builder.add(ConvolutionBackward { forward: self.clone() }, &operands);
            results[0] = Some(both[0]);
            results[1] = builder.wants(1).then_some(both[1]);
        } else if builder.wants(1) {
            results[1] = Some(builder.add(ConvolutionWeightGradient { forward: self.clone() }, &operands)[0]);
        }
        if results.len() > 2 && builder.wants(2) {
            let bias = builder.shape(builder.input(2)).clone();
            let sums = builder.sum_to(dy, &Shape::uniform(&[1, bias.elements(), 1, 1]));
            results[2] = Some(builder.add(Reshape { shape: bias }, &[sums])[0]);
        }
        Ok(results)
    }

    fn cost(&self, inputs: &[&Shape], outputs: &[&Shape]) -> Cost {
        let bias = if inputs.len() > 2 { outputs[0].elements() as f64 } else { 0.0 };
        Cost { flops: Self::sweep(inputs[1], outputs[0]) + bias, fixed_flops: 0.0 }
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![self.evaluate_forward(inputs[0], inputs[1], inputs.get(2).copied())]
    }
}

impl Operator for ConvolutionBackward {
    fn name(&self) -> &'static str {
        "convolution_backward"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        self.forward.infer_gradients(self.name(), inputs).map(Vec::from)
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost { flops: 2.0 * Convolution::sweep(inputs[1], inputs[2]), fixed_flops: 0.0 }
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        let [x, w, dy] = [inputs[0], inputs[1], inputs[2]];
        vec![self.forward.evaluate_input_gradient(&x.dims, w, dy), self.forward.evaluate_weight_gradient(x, &w.dims, dy)]
    }
}

impl Operator for ConvolutionWeightGradient {
    fn name(&self) -> &'static str {
        "convolution_weight_gradient"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, ShapeError> {
        self.forward.infer_gradients(self.name(), inputs).map(|[_, w]| vec![w])
    }

    fn gradient(&self, _builder: &mut GradientBuilder<'_>, _gradients: &[Option<Value>]) -> Result<Vec<Option<Value>>, NoGradient> {
        Err(NoGradient::second_order(self.name()))
    }

    fn cost(&self, inputs: &[&Shape], _outputs: &[&Shape]) -> Cost {
        Cost { flops: Convolution::sweep(inputs[1], inputs[2]), fixed_flops: 0.0 }
    }

    fn evaluate(&self, inputs: &[&Reference]) -> Vec<Reference> {
        vec![self.forward.evaluate_weight_gradient(inputs[0], &inputs[1].dims, inputs[2])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Convolution = Convolution { strides: [1, 1], dilations: [1, 1], pads: [0; 4], groups: 1 };

    #[test]
    fn a_hand_computed_convolution() {
        let x = Reference { dims: vec![1, 1, 2, 3], values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] };
        let w = Reference { dims: vec![1, 1, 2, 2], values: vec![1.0, 10.0, 100.0, 1000.0] };
        let bias = Reference { dims: vec![1], values: vec![0.5] };
        let y = PLAIN.evaluate(&[&x, &w, &bias]).remove(0);
        assert_eq!((y.dims, y.values), (vec![1, 1, 1, 2], vec![5421.5, 6532.5]));
        let padded = Convolution { strides: [2, 2], pads: [1, 0, 0, 1], ..PLAIN };
        let y = padded.evaluate(&[&x, &w]).remove(0);
        assert_eq!((y.dims, y.values), (vec![1, 1, 1, 2], vec![2100.0, 300.0]));
    }

    #[test]
    fn groups_see_their_own_channels() {
        let x = Reference { dims: vec![1, 2, 1, 1], values: vec![3.0, 5.0] };
        let w = Reference { dims: vec![4, 1, 1, 1], values: vec![1.0, 2.0, 3.0, 4.0] };
        let y = Convolution { groups: 2, ..PLAIN }.evaluate(&[&x, &w]).remove(0);
        assert_eq!(y.values, [3.0, 6.0, 15.0, 20.0]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let x = Shape::batched(&[4, 5, 5]);
        let infer = |op: &Convolution, w: &[usize]| op.infer(&[&x, &Shape::uniform(w)]);
        assert_eq!(infer(&PLAIN, &[8, 4, 3, 3]).unwrap(), [Shape::batched(&[8, 3, 3])]);
        assert!(infer(&PLAIN, &[8, 3, 3, 3]).is_err());
        assert!(infer(&Convolution { groups: 3, ..PLAIN }, &[8, 4, 3, 3]).is_err());
        assert!(infer(&Convolution { dilations: [3, 1], ..PLAIN }, &[8, 4, 3, 3]).is_err());
        assert!(infer(&Convolution { strides: [0, 1], ..PLAIN }, &[8, 4, 3, 3]).is_err());
        assert!(PLAIN.infer(&[&x, &Shape::uniform(&[8, 4, 3, 3]), &Shape::uniform(&[4])]).is_err());
    }
}
