//! The end of a step: clipping, the update of live weights, and the streams' copies of them.

use super::kernel::{KernelBuilder, Place, integer, start};
use super::{Class, Lowering};
use crate::program::Affine;
use mest_runtime::manifest::Role;
use mest_runtime::optim::Optimizer;
use mest_runtime::tile::{
    Adagrad, AdagradNarrow, Adam, AdamNarrow, ClipScale, GatherValues, Sgd, SgdMomentum, SgdMomentumNarrow, SumSquares, Tile,
};

impl Lowering<'_> {
    /// Appends the update of every trainable parameter.
    pub(super) fn update(&mut self) {
        if self.options.clip_norm {
            self.clip();
        }
        let trainable: Vec<usize> = (0..self.parameters.len()).filter(|&p| self.parameters[p].role == Role::Trainable).collect();
        for &parameter in &trainable {
            self.update_parameter(parameter);
        }
        for stream in 0..self.streams.len() {
            self.refresh_stream(stream);
        }
    }

    fn update_parameter(&mut self, index: usize) {
        let parameter = self.parameters[index].clone();
        let Some(gradient) = parameter.gradient else { return };
        let ((unit_elements, _), parts) = (parameter.extent(), parameter.parts());
        let mut kernel = KernelBuilder::new(format!("update_{parts}x{unit_elements}"), &[parts]);
        let mut operands = vec![
            integer(Affine::default().plus(0, 1)),
            start(kernel.words("count", parameter.count)),
            start(kernel.read("hyper", self.io.hyper)),
            start(kernel.write("value", parameter.value)),
            start(kernel.read("gradient", gradient)),
        ];
        for (i, &moment) in parameter.moments.iter().enumerate() {
            operands.push(start(kernel.argument(&format!("moment{i}"), moment.into(), self.slots[moment.0].element, true)));
        }
        if let Some(numbers) = self.numbers {
            operands.push(start(kernel.words("seed", self.io.seed)));
            operands.push(start(kernel.read("number", Place { slot: numbers, offset: index })));
        }
        kernel.tile(update_tile(&self.options.optimizer, self.numbers.is_some(), unit_elements, parts), operands);
        self.launch(kernel, &parameter.name);
    }

    /// Copies the new values into the order of a backward stream.
    fn refresh_stream(&mut self, index: usize) {
        let stream = self.streams[index].clone();
        let (Some(values), Some(source)) = (stream.values, stream.source) else { return };
        let parameter = self.parameters[stream.parameter].clone();
        let ((unit_elements, _), parts) = (parameter.extent(), parameter.parts());
        let mut kernel = KernelBuilder::new(format!("gather_values_{parts}x{unit_elements}"), &[parts]);
        let operands = vec![
            integer(Affine::default().plus(0, 1)),
            start(kernel.read("values", parameter.value)),
            start(kernel.words("source", source)),
            start(kernel.words("count", parameter.count)),
            start(kernel.write("stream", values)),
        ];
        kernel.tile(Tile::GatherValues(GatherValues { unit_elements, parts }), operands);
        self.launch(kernel, &parameter.name);
    }

    /// The global norm of all gradients, and the scale that brings it under the bound.
    fn clip(&mut self) {
        let trainable: Vec<usize> = (0..self.parameters.len()).filter(|&p| self.parameters[p].gradient.is_some()).collect();
        let partials: usize = trainable.iter().map(|&p| self.parameters[p].parts()).sum();
        let sums = self.transient("gradient_squares", Class::Gradients, partials);
        let mut first = 0;
        for &index in &trainable {
            let parameter = self.parameters[index].clone();
            let Some(gradient) = parameter.gradient else { continue };
            let ((unit_elements, _), parts) = (parameter.extent(), parameter.parts());
            let mut kernel = KernelBuilder::new(format!("sum_squares_{parts}x{unit_elements}"), &[parts]);
            let mut place = sums;
            place.offset += first;
            let operands = vec![
                integer(Affine::default().plus(0, 1)),
                start(kernel.words("count", parameter.count)),
                start(kernel.read("gradient", gradient)),
                start(kernel.write("out", place)),
            ];
            kernel.tile(Tile::SumSquares(SumSquares { unit_elements, parts }), operands);
            self.launch(kernel, &parameter.name);
            first += parts;
        }
        let mut kernel = KernelBuilder::new(format!("clip_scale_{partials}"), &[1]);
        let operands = vec![start(kernel.read("sums", sums)), start(kernel.write("hyper", self.io.hyper))];
        kernel.tile(Tile::ClipScale(ClipScale { partials }), operands);
        self.launch(kernel, "clip_norm");
    }
}

/// The tile of a rule, for moments in half of the bits where `narrow`.
fn update_tile(optimizer: &Optimizer, narrow: bool, unit_elements: usize, parts: usize) -> Tile {
    let decoupled = usize::from(matches!(optimizer, Optimizer::AdamW { .. }));
    match (*optimizer, narrow) {
        (Optimizer::Sgd { momentum: 0.0, .. }, _) => Tile::Sgd(Sgd { unit_elements, parts }),
        (Optimizer::Sgd { nesterov, .. }, false) => {
            Tile::SgdMomentum(SgdMomentum { unit_elements, parts, nesterov: usize::from(nesterov) })
        }
        (Optimizer::Sgd { nesterov, .. }, true) => {
            Tile::SgdMomentumNarrow(SgdMomentumNarrow { unit_elements, parts, nesterov: usize::from(nesterov) })
        }
        (Optimizer::Adam { .. } | Optimizer::AdamW { .. }, false) => Tile::Adam(Adam { unit_elements, parts, decoupled }),
        (Optimizer::Adam { .. } | Optimizer::AdamW { .. }, true) => Tile::AdamNarrow(AdamNarrow { unit_elements, parts, decoupled }),
        (Optimizer::Adagrad { .. }, false) => Tile::Adagrad(Adagrad { unit_elements, parts }),
        (Optimizer::Adagrad { .. }, true) => Tile::AdagradNarrow(AdagradNarrow { unit_elements, parts }),
    }
}
