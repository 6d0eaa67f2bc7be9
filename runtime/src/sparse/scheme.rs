//! Schemes: the shapes that a mask may take.

use super::mask::Units;
use crate::manifest::{Block, LARGEST_LIBRARY, Patterns, Structure, WeightMatrix};
use crate::prelude::*;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// Rows of a block that the tiles come in.
pub const BLOCK_ROWS: [usize; 5] = [1, 2, 4, 8, 16];
/// Columns of a block that the tiles come in.
pub const BLOCK_COLUMNS: [usize; 3] = [1, 2, 4];

/// Patterns of 3x3 kernels: the four corners of 2x2 cells and the four T shapes. (MEST's code has 480, the lower row and the cell above its
/// right one, in place of the upward T, 58.)
pub const LIBRARY: [u16; 8] = [432, 216, 54, 27, 184, 178, 154, 58];
/// Largest M of N:M.
pub const LARGEST_SPAN: usize = 64;

/// What a mask keeps or drops as one, and what else it must obey.
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
    /// Kernels of 3x3 that hold one of a few patterns or nothing, as many in each filter; kernels of other extents are whole or nothing.
    Pattern,
    /// Whole input channels.
    InputChannel,
    /// Whole output channels, filters.
    OutputChannel,
    /// N of M consecutive input channels at one output and kernel position. Its density is N / M.
    NOfM {
        /// N.
        live: usize,
        /// M: 2 to 64; divides the input channels of a group.
        length: usize,
    },
    /// As many weights for each output.
    FanIn,
    /// Whatever of these is fastest, layer by layer: no scheme yet, and fits nothing until one is chosen.
    Auto,
}

/// A scheme that does not exist, or does not fit a weight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemeError {
    /// Not a scheme's name.
    #[error(
        "'{text}' is no sparsity scheme; write unstructured, block:RxC such as block:4x1, pattern, channel (input channels), channel:out (filters), nm:N:M such as nm:2:4, fanin, or auto"
    )]
    Unknown {
        /// What was written.
        text: String,
    },
    /// A scheme that is still to be chosen.
    #[error("scheme 'auto' is chosen by measurement before a model is compiled: `mestc` does so; here, name a scheme")]
    Open,
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
    /// N that is not below M, or none.
    #[error("scheme '{text}': N of M needs N of at least 1 and below M, and M of 2 to {}; the nearest is nm:{live}:{length}", LARGEST_SPAN)]
    Ratio {
        /// What was written.
        text: String,
        /// N of the nearest.
        live: usize,
        /// M of the nearest.
        length: usize,
    },
    /// A library that isn't one.
    #[error(
        "pattern library: {why}; a library has 1 to {} patterns of 3x3 cells, bit 3 * row + column for a live one, all with as many: the \
         default is {:?}",
        LARGEST_LIBRARY,
        LIBRARY
    )]
    Library {
        /// What is wrong.
        why: String,
    },
    /// More spans than fit.
    #[error(
        "scheme '{scheme}' does not fit {inputs} input channels a group, which {length} must divide; the nearest that fit: {}",
        .nearest.iter().map(Scheme::to_string).collect::<Vec<_>>().join(", ")
    )]
    Span {
        /// The scheme.
        scheme: Scheme,
        /// M.
        length: usize,
        /// Input channels of a group.
        inputs: usize,
        /// Schemes that fit, best first.
        nearest: Vec<Scheme>,
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
    /// The density that the scheme itself decides: that of N:M.
    pub fn density(self) -> Option<f64> {
        match self {
            Scheme::NOfM { live, length } => Some(live as f64 / length as f64),
            _ => None,
        }
    }

    /// The units of `matrix` under this scheme. Patterns are those of `library`.
    ///
    /// # Errors
    /// The weight does not divide into blocks or spans; the message names the nearest that do. The caller knows the layer's name.
    pub fn fit(self, matrix: &WeightMatrix, library: Patterns) -> Result<Units, SchemeError> {
        let (outputs, inputs) = (matrix.outputs / matrix.groups, matrix.inputs_per_group);
        // What the tiles compute fastest among the blocks that make up whole channels.
        let tallest = |extent: usize| [4, 2].into_iter().find(|&size| extent.is_multiple_of(size)).unwrap_or(1);
        let units = |rows, columns, structure| Units::new(*matrix, Block { rows, columns }).structured(structure);
        match self {
            Scheme::Unstructured => Ok(units(1, 1, Structure::Free)),
            Scheme::Block { rows, columns } if outputs.is_multiple_of(rows) && inputs.is_multiple_of(columns) => {
                Ok(units(rows, columns, Structure::Free))
            }
            Scheme::Block { rows, columns } => Err(self.indivisible(outputs, inputs, Block { rows, columns })),
            Scheme::Pattern => Ok(units(1, 1, Structure::Patterns(library))),
            Scheme::InputChannel => Ok(units(tallest(outputs), 1, Structure::Inputs)),
            Scheme::OutputChannel => Ok(units(1, tallest(inputs), Structure::Outputs)),
            Scheme::NOfM { length, .. } if inputs.is_multiple_of(length) => Ok(units(1, 1, Structure::Spans { length })),
            Scheme::NOfM { live, length } => Err(self.unspanned(live, length, inputs)),
            Scheme::FanIn => Ok(units(1, 1, Structure::FanIn)),
            Scheme::Auto => Err(SchemeError::Open),
        }
    }

    fn indivisible(self, outputs: usize, inputs: usize, block: Block) -> SchemeError {
        let mut nearest: Vec<(Block, Scheme)> = BLOCK_ROWS
            .into_iter()
            .flat_map(|rows| BLOCK_COLUMNS.map(|columns| (rows, columns)))
            .filter(|&(rows, columns)| outputs.is_multiple_of(rows) && inputs.is_multiple_of(columns))
            .map(|(rows, columns)| {
                (Block { rows, columns }, if rows * columns == 1 { Scheme::Unstructured } else { Scheme::Block { rows, columns } })
            })
            .collect();
        nearest.sort_by_key(|(fitting, _)| distance(*fitting, block));
        let nearest = nearest.into_iter().map(|(_, scheme)| scheme).take(3).collect();
        SchemeError::Indivisible { scheme: self, outputs, inputs, nearest }
    }

    fn unspanned(self, live: usize, length: usize, inputs: usize) -> SchemeError {
        let mut fitting: Vec<usize> = (2..=LARGEST_SPAN).filter(|&span| inputs.is_multiple_of(span)).collect();
        fitting.sort_by_key(|span| span.abs_diff(length));
        let of = |span: usize| Scheme::NOfM { live: (live * span).div_ceil(length).clamp(1, span - 1), length: span };
        let nearest = fitting.into_iter().take(2).map(of).chain([Scheme::Unstructured]).collect();
        SchemeError::Span { scheme: self, length, inputs, nearest }
    }
}

impl Units {
    /// The scheme that these units are of, in a layer of budgeted density `density`.
    pub fn scheme(&self, density: f64) -> Scheme {
        let Block { rows, columns } = self.block;
        match self.structure {
            Structure::Free if rows * columns == 1 => Scheme::Unstructured,
            Structure::Free => Scheme::Block { rows, columns },
            Structure::Spans { length } => Scheme::NOfM { live: (density * length as f64).round() as usize, length },
            Structure::FanIn => Scheme::FanIn,
            Structure::Patterns(_) => Scheme::Pattern,
            Structure::Inputs => Scheme::InputChannel,
            Structure::Outputs => Scheme::OutputChannel,
        }
    }
}

impl Default for Patterns {
    fn default() -> Self {
        Patterns(core::array::from_fn(|index| LIBRARY.get(index).copied().unwrap_or(0)))
    }
}

impl Patterns {
    /// A library of `patterns`.
    ///
    /// # Errors
    /// None or too many, an empty one, one beyond nine cells, or different numbers of cells.
    pub fn new(patterns: &[u16]) -> Result<Self, SchemeError> {
        let wrong = |why: String| Err(SchemeError::Library { why });
        if patterns.is_empty() || patterns.len() > LARGEST_LIBRARY {
            return wrong(format!("{} patterns", patterns.len()));
        }
        if let Some(pattern) = patterns.iter().find(|&&pattern| pattern == 0 || pattern >= 1 << 9) {
            return wrong(format!("{pattern} is no pattern"));
        }
        if let Some(pattern) = patterns.iter().find(|pattern| pattern.count_ones() != patterns[0].count_ones()) {
            return wrong(format!("{pattern} and {} have different numbers of cells", patterns[0]));
        }
        Ok(Patterns(core::array::from_fn(|index| patterns.get(index).copied().unwrap_or(0))))
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
            Scheme::Pattern => f.write_str("pattern"),
            Scheme::InputChannel => f.write_str("channel"),
            Scheme::OutputChannel => f.write_str("channel:out"),
            Scheme::NOfM { live, length } => write!(f, "nm:{live}:{length}"),
            Scheme::FanIn => f.write_str("fanin"),
            Scheme::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for Scheme {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        match text {
            "unstructured" => return Ok(Scheme::Unstructured),
            "pattern" => return Ok(Scheme::Pattern),
            "channel" | "channel:in" => return Ok(Scheme::InputChannel),
            "channel:out" => return Ok(Scheme::OutputChannel),
            "fanin" => return Ok(Scheme::FanIn),
            "auto" => return Ok(Scheme::Auto),
            _ => {}
        }
        if let Some(ratio) = text.strip_prefix("nm:") {
            return n_of_m(text, ratio);
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

/// The scheme of `ratio`, N:M.
fn n_of_m(text: &str, ratio: &str) -> Result<Scheme, SchemeError> {
    let parsed = ratio.split_once(':').and_then(|(live, length)| Some((live.parse::<usize>().ok()?, length.parse::<usize>().ok()?)));
    let (live, length) = parsed.ok_or_else(|| SchemeError::Unknown { text: text.into() })?;
    let nearest = length.clamp(2, LARGEST_SPAN);
    if length == nearest && (1..length).contains(&live) {
        return Ok(Scheme::NOfM { live, length });
    }
    Err(SchemeError::Ratio { text: text.into(), live: live.clamp(1, nearest - 1), length: nearest })
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
            group_stride: outputs / groups * inputs * 9,
            output_stride: inputs * 9,
            input_stride: 9,
            kernel_stride: 1,
        }
    }

    #[test]
    fn text_round_trips() {
        for text in ["unstructured", "block:4x1", "block:16x4", "block:1x1", "pattern", "channel", "channel:out", "nm:2:4", "fanin"] {
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
        for (text, nearest) in [("nm:4:4", "nm:3:4"), ("nm:0:4", "nm:1:4"), ("nm:2:1", "nm:1:2"), ("nm:2:4096", "nm:2:64")] {
            assert!(text.parse::<Scheme>().expect_err(text).to_string().contains(nearest), "{text}");
        }
        assert!("nm:2".parse::<Scheme>().is_err() && "channels".parse::<Scheme>().is_err());
        let unfit = Scheme::NOfM { live: 2, length: 4 }.fit(&matrix(8, 6, 1), Patterns::default()).expect_err("6 is no multiple of 4");
        assert!(unfit.to_string().contains("fit: nm:2:3, nm:1:2, unstructured"), "{unfit}");
        for library in [&[][..], &[0], &[512], &[27, 1], &[27; 17]] {
            assert!(Patterns::new(library).expect_err("no library").to_string().contains("432"), "{library:?}");
        }
        assert_eq!(Patterns::new(&LIBRARY), Ok(Patterns::default()));
        let unfit =
            Scheme::Block { rows: 8, columns: 4 }.fit(&matrix(36, 6, 1), Patterns::default()).expect_err("36 is not a multiple of 8");
        assert!(unfit.to_string().contains("block:4x2"), "{unfit}");
        assert_eq!(serde_json::from_str::<Scheme>("\"block:3x3\"").map_err(|e| e.to_string().contains("block:2x2")), Err(true));
    }

    #[test]
    fn fits_within_groups() {
        assert!(Scheme::Block { rows: 4, columns: 1 }.fit(&matrix(32, 16, 1), Patterns::default()).is_ok());
        assert!(
            Scheme::Block { rows: 2, columns: 1 }.fit(&matrix(32, 1, 32), Patterns::default()).is_err(),
            "depthwise: one output a group"
        );
        assert!(Scheme::Unstructured.fit(&matrix(7, 5, 1), Patterns::default()).is_ok());
    }
}
