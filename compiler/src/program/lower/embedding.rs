//! Rows of a table by index, and the sums that are their gradient.

use super::kernel::{KernelBuilder, at, integer, start};
use super::{LowerError, PARTS, PhaseLowering};
use crate::ir::NodeId;
use crate::program::Affine;
use mest_runtime::tile::{Embedding, EmbeddingGradient, Tile};

impl PhaseLowering<'_, '_> {
    /// An item is a group.
    pub(super) fn embedding(&mut self, id: NodeId) -> Result<(), LowerError> {
        let (inputs, y) = (self.graph.inputs(id), self.value(id, 0));
        let (table, indices) = (self.place(inputs[0])?, self.place(inputs[1])?);
        let extents = self.shape(inputs[0]).fixed();
        let (table_rows, embedding_width, positions) = (extents[0], extents[1], self.shape(inputs[1]).elements());
        let out = self.define(y);
        let mut kernel = KernelBuilder::new(format!("embedding_{positions}_of_{table_rows}x{embedding_width}"), &[self.groups()]);
        let group = |value| Affine::default().plus(0, self.group_stride(value));
        let operands = vec![
            at(kernel.read("index", indices), group(inputs[1])),
            start(kernel.read("table", table)),
            at(kernel.write("y", out), group(y)),
        ];
        kernel.tile(Tile::Embedding(Embedding { positions, embedding_width, table_rows }), operands);
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }

    /// An item is a range of the elements of every row: what a row gathers is summed in order of examples whatever the threads.
    pub(super) fn embedding_gradient(&mut self, id: NodeId) -> Result<(), LowerError> {
        let (inputs, dtable) = (self.graph.inputs(id), self.value(id, 0));
        let (indices, dy) = (self.place(inputs[0])?, self.place(inputs[1])?);
        let extents = self.shape(dtable).fixed();
        let (table_rows, embedding_width, positions) = (extents[0], extents[1], self.shape(inputs[0]).elements());
        let out = self.define(dtable);
        let (groups, parts) = (self.groups(), PARTS.min(embedding_width));
        let mut kernel = KernelBuilder::new(format!("embedding_gradient_{positions}_of_{table_rows}x{embedding_width}"), &[parts]);
        let operands = vec![
            integer(Affine::default().plus(0, 1)),
            start(kernel.read("index", indices)),
            start(kernel.read("dy", dy)),
            start(kernel.write("dtable", out)),
        ];
        kernel.tile(Tile::EmbeddingGradient(EmbeddingGradient { groups, positions, embedding_width, table_rows, parts }), operands);
        self.shared.launch(kernel, self.label(id));
        Ok(())
    }
}
