//! Losses with their gradients, and the softmax at a model's end.

use super::kernel::{KernelBuilder, Place, at, start};
use super::{LowerError, PhaseLowering};
use crate::ir::NodeId;
use crate::program::Affine;
use mest_runtime::tile::{MeanSquaredError, Softmax, SoftmaxCrossEntropy, Tile};

impl PhaseLowering<'_, '_> {
    pub(super) fn softmax_cross_entropy(&mut self, id: NodeId, smoothing: f32) -> Result<(), LowerError> {
        let classes = self.shape(self.graph.inputs(id)[0]).elements();
        self.loss(id, true, Tile::SoftmaxCrossEntropy(SoftmaxCrossEntropy { classes, smoothing }))
    }

    pub(super) fn mean_squared_error(&mut self, id: NodeId) -> Result<(), LowerError> {
        let elements = self.shape(self.graph.inputs(id)[0]).elements();
        self.loss(id, false, Tile::MeanSquaredError(MeanSquaredError { elements }))
    }

    fn loss(&mut self, id: NodeId, labels: bool, tile: Tile) -> Result<(), LowerError> {
        let inputs = self.graph.inputs(id);
        let (prediction, target) = (self.place(inputs[0])?, self.place(inputs[1])?);
        let io = self.shared.io;
        let [live, loss, correct] = [io.live, io.loss, io.correct].map(|slot| self.own_lanes(slot));
        self.places.insert(self.value(id, 0), loss);
        self.places.insert(self.value(id, 1), correct);
        let gradient = self.define(self.value(id, 2));
        let group = Affine::default().plus(0, self.group_stride(inputs[0]));
        let lanes = Affine::default().plus(0, self.lanes());
        let mut kernel = KernelBuilder::new(format!("{}_{}", tile.name(), self.shape(inputs[0]).elements()), &[self.groups()]);
        let prediction = at(kernel.read("prediction", prediction), group.clone());
        let target =
            if labels { at(kernel.words("target", target), lanes.clone()) } else { at(kernel.read("target", target), group.clone()) };
        let live = at(kernel.read("live", live), lanes.clone());
        let inverse_count = start(kernel.read("inverse_count", Place { slot: io.count, offset: 1 }));
        let loss = at(kernel.write("loss", loss), lanes.clone());
        let correct = at(kernel.write("correct", correct), lanes);
        let gradient = at(kernel.write("gradient", gradient), group);
        kernel.tile(tile, vec![prediction, target, live, inverse_count, loss, correct, gradient]);
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    pub(super) fn softmax(&mut self, id: NodeId, log: bool) -> Result<(), LowerError> {
        let (x, y) = (self.graph.inputs(id)[0], self.value(id, 0));
        let extents = self.shape(x).fixed();
        // Whatever the order of the other axes in memory, the last one is innermost.
        let Some(&classes) = extents.last() else { return Err(self.internal(id, "it has no axis of classes")) };
        let rows = self.shape(x).elements() / classes.max(1);
        let (from, to) = (self.place(x)?, self.define(y));
        let group = Affine::default().plus(0, self.group_stride(x));
        let mut kernel = KernelBuilder::new(format!("softmax_{rows}x{classes}"), &[self.groups()]);
        let operands = vec![at(kernel.read("x", from), group.clone()), at(kernel.write("y", to), group)];
        kernel.tile(Tile::Softmax(Softmax { rows, classes, log: usize::from(log) }), operands);
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }
}
