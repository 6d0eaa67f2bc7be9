//! Schemes: the shapes that a mask may take.

use super::mask::Units;
use crate::manifest::{Block, WeightMatrix};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Rows of a block that the tiles come in.
pub const BLOCK_ROWS: [usize; 5] = [1, 2, 4, 8, 16];
/// Columns of a block that the tiles come in.
pub const BLOCK_COLUMNS: [usize; 3] = [1, 2, 4];

/// What a mask keeps or drops as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scheme {
    /// Single weights.
    #[default]
    Unstructured,
    /// Blocks of weights at one kernel position.
    Block {
        /// Consecutive outputs: 1, 2, 4, 8 or 16.
        rows: usize,
        /// Consecutive input channels: 1, 2 or 4.
        columns: usize,
    },
}

/// A scheme that does not exist, or does not fit a weight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemeError {
    /// Not a scheme's name.
    #[error("'{text}' is no sparsity scheme; write unstructured, or block:RxC such as block:4x1")]
    Unknown {
        /// What was written.
        text: String,
    },
    /// A block that no tile computes.
    #[error(
        "scheme '{text}': blocks have 1, 2, 4, 8 or 16 rows (outputs) and 1, 2 or 4 columns (input channels); the nearest is block:{rows}x{columns}"
    )]
    Extents {
        /// What was written.
        text: String,
        /// Rows of the nearest block.
        rows: usize,
        /// Columns of the nearest block.
        columns: usize,
    },
    /// The weight does not divide into such blocks.
    #[error(
        "scheme '{scheme}' does not fit {outputs} outputs and {inputs} input channels a group: rows must divide the first and columns the \
         second; the nearest that fit: {}", .nearest.iter().map(Scheme::to_string).collect::<Vec<_>>().join(", ")
    )]
    Indivisible {
        /// The scheme.
        scheme: Scheme,
        /// Outputs of a group.
        outputs: usize,
        /// Input channels of a group.
        inputs: usize,
        /// Schemes that fit, best first.
        nearest: Vec<Scheme>,
    },
}

impl Scheme {
    /// Extents of a unit.
    pub fn block(self) -> Block {
        match self {
            Scheme::Unstructured => Block { rows: 1, columns: 1 },
            Scheme::Block { rows, columns } => Block { rows, columns },
        }
    }

    /// The units of `matrix` under this scheme.
    ///
    /// # Errors
    /// The weight does not divide into blocks; the message names the nearest that do. The caller knows the layer's name.
    pub fn fit(self, matrix: &WeightMatrix) -> Result<Units, SchemeError> {
        let block = self.block();
        let outputs = matrix.outputs / matrix.groups;
        if outputs.is_multiple_of(block.rows) && matrix.inputs_per_group.is_multiple_of(block.columns) {
            return Ok(Units::new(*matrix, block));
        }
        let mut fitting: Vec<Scheme> = BLOCK_ROWS
            .into_iter()
            .flat_map(|rows| BLOCK_COLUMNS.map(|columns| (rows, columns)))
            .filter(|&(rows, columns)| outputs.is_multiple_of(rows) && matrix.inputs_per_group.is_multiple_of(columns))
            .map(|(rows, columns)| if rows * columns == 1 { Scheme::Unstructured } else { Scheme::Block { rows, columns } })
            .collect();
        fitting.sort_by_key(|scheme| distance(scheme.block(), block));
        fitting.truncate(3);
        Err(SchemeError::Indivisible { scheme: self, outputs, inputs: matrix.inputs_per_group, nearest: fitting })
    }
}

/// Doublings between two blocks.
fn distance(a: Block, b: Block) -> u32 {
    let doublings = |x: usize, y: usize| x.max(1).ilog2().abs_diff(y.max(1).ilog2());
    doublings(a.rows, b.rows) + doublings(a.columns, b.columns)
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scheme::Unstructured => f.write_str("unstructured"),
            Scheme::Block { rows, columns } => write!(f, "block:{rows}x{columns}"),
        }
    }
}

impl FromStr for Scheme {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        if text == "unstructured" {
            return Ok(Scheme::Unstructured);
        }
        let extents = text.strip_prefix("block:").and_then(|extents| extents.split_once('x'));
        let parsed = extents.and_then(|(rows, columns)| Some((rows.parse::<usize>().ok()?, columns.parse::<usize>().ok()?)));
        let (rows, columns) = parsed.ok_or_else(|| SchemeError::Unknown { text: text.into() })?;
        if BLOCK_ROWS.contains(&rows) && BLOCK_COLUMNS.contains(&columns) {
            return Ok(Scheme::Block { rows, columns });
        }
        let nearest = |choices: &[usize], wanted: usize| choices.iter().copied().min_by_key(|c| c.abs_diff(wanted)).unwrap_or(1);
        Err(SchemeError::Extents { text: text.into(), rows: nearest(&BLOCK_ROWS, rows), columns: nearest(&BLOCK_COLUMNS, columns) })
    }
}

impl TryFrom<String> for Scheme {
    type Error = SchemeError;

    fn try_from(text: String) -> Result<Self, SchemeError> {
        text.parse()
    }
}

impl From<Scheme> for String {
    fn from(scheme: Scheme) -> String {
        scheme.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(outputs: usize, inputs: usize, groups: usize) -> WeightMatrix {
        WeightMatrix {
            groups,
            outputs,
            inputs_per_group: inputs,
            kernel_rows: 3,
            kernel_width: 3,
            output_stride: inputs * 9,
            input_stride: 9,
            kernel_stride: 1,
        }
    }

    #[test]
    fn text_round_trips() {
        for text in ["unstructured", "block:4x1", "block:16x4", "block:1x1"] {
            let scheme: Scheme = text.parse().expect(text);
            assert_eq!(scheme.to_string(), text);
            assert_eq!(serde_json::from_str::<Scheme>(&format!("\"{text}\"")).expect(text), scheme);
        }
    }

    #[test]
    fn mistakes_name_what_is_valid() {
        let unknown = "blocks:4x1".parse::<Scheme>().expect_err("not a scheme");
        assert!(unknown.to_string().contains("block:4x1"), "{unknown}");
        let extents = "block:5x3".parse::<Scheme>().expect_err("no such tile");
        assert!(extents.to_string().contains("nearest is block:4x2"), "{extents}");
        assert!("block:0x1".parse::<Scheme>().is_err());
        let unfit = Scheme::Block { rows: 8, columns: 4 }.fit(&matrix(36, 6, 1)).expect_err("36 is not a multiple of 8");
        assert!(unfit.to_string().contains("block:4x2"), "{unfit}");
        assert_eq!(serde_json::from_str::<Scheme>("\"block:3x3\"").map_err(|e| e.to_string().contains("block:2x2")), Err(true));
    }

    #[test]
    fn fits_within_groups() {
        assert!(Scheme::Block { rows: 4, columns: 1 }.fit(&matrix(32, 16, 1)).is_ok());
        assert!(Scheme::Block { rows: 2, columns: 1 }.fit(&matrix(32, 1, 32)).is_err(), "depthwise: one output a group");
        assert!(Scheme::Unstructured.fit(&matrix(7, 5, 1)).is_ok());
    }
}
