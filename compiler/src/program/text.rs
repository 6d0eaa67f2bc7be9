//! A program as text, to be read and compared: slots, kernels, schedules. It is printed only, never parsed.
//!
//! ```text
//! kernel normalize_8x16(x: f32, scale: f32, y: f32)
//!   for i0 in 0..4                                            work items
//!     map lanes d0 in 0..8, d1 in 0..16
//!       v0 = x[2048*i0 + 256*d0 + 16*d1]                      a vector of the program's lanes
//!       v1 = splat scale[d0]                                  one element in every lane
//!       v2 = v0 * v1
//!       y[2048*i0 + 256*d0 + 16*d1] = v2
//! ```
//!
//! Indices count elements of four bytes. `i` are variables of the domain and of loops, `d` of a map's dimensions.

use super::{Address, Affine, Base, ChainOp, Kernel, Launch, Map, MapOperand, Operand, Program, Slot, Statement, Width};
use mest_runtime::manifest::Element;
use mest_runtime::tile::Tile;
use std::fmt::{self, Display, Formatter, Write};

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let m = &self.manifest;
        writeln!(f, "program {}: batch {}, {} groups of {} lanes", self.name, m.batch, m.groups, m.lanes)?;
        writeln!(f, "arena {} bytes, scratch {} bytes a worker\n\nslots", m.arena_bytes, m.scratch_bytes)?;
        for (index, slot) in self.slots.iter().enumerate() {
            writeln!(f, "  {}", slot_line(index, slot))?;
        }
        for kernel in &self.kernels {
            write!(f, "\n{kernel}")?;
        }
        for schedule in &self.schedules {
            writeln!(f, "\nschedule {}", format!("{:?}", schedule.phase).to_lowercase())?;
            for launch in &schedule.launches {
                writeln!(f, "  {}", launch_line(self, launch))?;
            }
        }
        Ok(())
    }
}

fn slot_line(index: usize, slot: &Slot) -> String {
    let array = format!("{}[{}]", element(slot.element), slot.len);
    let id = format!("%{index}");
    let life = if slot.persistent { " persistent" } else { "" };
    format!("{id:<5} {:<11} {array:<13} @{:<9} {}{life}", slot.class.name(), slot.offset, slot.name)
}

fn launch_line(program: &Program, launch: &Launch) -> String {
    let Some(kernel) = program.kernels.get(launch.kernel) else {
        return format!("kernel {} does not exist  # {}", launch.kernel, launch.label);
    };
    let arguments: Vec<String> = launch
        .arguments
        .iter()
        .enumerate()
        .map(|(i, (slot, offset))| {
            let name = kernel.arguments.get(i).map_or("?", |(name, _)| name);
            let written = if launch.writes.get(i) == Some(&true) { "mut " } else { "" };
            let offset = if *offset == 0 { String::new() } else { format!("+{offset}") };
            format!("{name}: {written}%{}{offset}", slot.0)
        })
        .collect();
    format!("{}({})  # {}", kernel.name, arguments.join(", "), launch.label)
}

/// How an element is spelled.
pub(crate) fn element(element: Element) -> &'static str {
    match element {
        Element::F32 => "f32",
        Element::U32 => "u32",
        Element::Bf16 => "bf16",
    }
}

impl Display for Kernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let arguments: Vec<String> = self.arguments.iter().map(|(name, e)| format!("{name}: {}", element(*e))).collect();
        write!(f, "kernel {}({})", self.name, arguments.join(", "))?;
        if self.scratch > 0 {
            write!(f, " scratch {}", self.scratch)?;
        }
        f.write_char('\n')?;
        if self.domain.is_empty() {
            writeln!(f, "  once")?;
        } else {
            writeln!(f, "  for {}", ranges('i', &self.domain))?;
        }
        self.body.iter().try_for_each(|statement| self.statement(f, statement, self.domain.len(), 4))
    }
}

fn ranges(letter: char, extents: &[usize]) -> String {
    let ranges: Vec<String> = extents.iter().enumerate().map(|(i, extent)| format!("{letter}{i} in 0..{extent}")).collect();
    ranges.join(", ")
}

impl Kernel {
    fn statement(&self, f: &mut Formatter<'_>, statement: &Statement, variable: usize, indent: usize) -> fmt::Result {
        match statement {
            Statement::Loop { count, body } => {
                writeln!(f, "{:indent$}loop i{variable} in 0..{count}", "")?;
                body.iter().try_for_each(|inner| self.statement(f, inner, variable + 1, indent + 2))
            }
            Statement::Tile { tile, operands } => self.tile(f, tile, operands, indent),
            Statement::Map(map) => self.map(f, map, indent),
        }
    }

    fn tile(&self, f: &mut Formatter<'_>, tile: &Tile, operands: &[Operand], indent: usize) -> fmt::Result {
        let fields: Vec<String> = tile.fields().iter().map(|(name, value)| format!("{name}: {value}")).collect();
        writeln!(f, "{:indent$}{} {{ {} }}", "", tile.name(), fields.join(", "))?;
        for (i, operand) in operands.iter().enumerate() {
            let name = tile.operands().get(i).map_or("?", |(name, _)| name);
            match operand {
                Operand::Address(address) => writeln!(f, "{:indent$}  {name}: {}", "", self.address(address, None))?,
                Operand::Integer(value) => writeln!(f, "{:indent$}  {name}: {value}", "")?,
            }
        }
        Ok(())
    }

    fn map(&self, f: &mut Formatter<'_>, map: &Map, indent: usize) -> fmt::Result {
        let width = match map.width {
            Width::Lanes => "lanes",
            Width::Scalar => "scalar",
        };
        writeln!(f, "{:indent$}map {width} {}", "", ranges('d', &map.extents))?;
        let place = |operand: &MapOperand| {
            let splat = if operand.splat { "splat " } else { "" };
            format!("{splat}{}", self.address(&operand.address, Some(&operand.strides)))
        };
        for (i, load) in map.loads.iter().enumerate() {
            writeln!(f, "{:indent$}  v{i} = {}", "", place(load))?;
        }
        for (i, operation) in map.operations.iter().enumerate() {
            writeln!(f, "{:indent$}  v{} = {operation}", "", map.loads.len() + i)?;
        }
        for (store, value) in &map.stores {
            writeln!(f, "{:indent$}  {} = v{value}", "", place(store))?;
        }
        for (sum, value) in &map.sums {
            writeln!(f, "{:indent$}  {} += v{value}", "", place(sum))?;
        }
        Ok(())
    }

    fn address(&self, address: &Address, strides: Option<&[usize]>) -> String {
        let base = match address.base {
            Base::Argument(i) => self.arguments.get(i).map_or_else(|| format!("?{i}"), |(name, _)| name.clone()),
            Base::Scratch => "scratch".to_owned(),
            Base::Null => return "null".to_owned(),
        };
        let dimensions = strides.unwrap_or_default().iter().enumerate().filter(|(_, stride)| **stride != 0);
        let terms = address.offset.terms.iter().map(|(v, c)| (format!("i{v}"), *c));
        let terms = terms.chain(dimensions.map(|(d, stride)| (format!("d{d}"), *stride as isize)));
        format!("{base}[{}]", sum(terms, address.offset.constant))
    }
}

impl Display for Affine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&sum(self.terms.iter().map(|(v, c)| (format!("i{v}"), *c)), self.constant))
    }
}

/// `2*i0 - i1 + 5`; a zero constant is left out unless it stands alone.
fn sum(terms: impl Iterator<Item = (String, isize)>, constant: isize) -> String {
    let mut text = String::new();
    let mut push = |coefficient: isize, variable: &str| {
        let sign = match (text.is_empty(), coefficient < 0) {
            (true, false) => "",
            (true, true) => "-",
            (false, false) => " + ",
            (false, true) => " - ",
        };
        let magnitude = coefficient.unsigned_abs();
        text += sign;
        text += &match (magnitude, variable) {
            (_, "") => magnitude.to_string(),
            (1, _) => variable.to_owned(),
            _ => format!("{magnitude}*{variable}"),
        };
    };
    terms.for_each(|(variable, coefficient)| push(coefficient, &variable));
    if constant != 0 {
        push(constant, "");
    }
    if text.is_empty() { "0".to_owned() } else { text }
}

impl Display for ChainOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ChainOp::Constant(value) => write!(f, "{value:?}"),
            ChainOp::Add(a, b) => write!(f, "v{a} + v{b}"),
            ChainOp::Sub(a, b) => write!(f, "v{a} - v{b}"),
            ChainOp::Mul(a, b) => write!(f, "v{a} * v{b}"),
            ChainOp::Div(a, b) => write!(f, "v{a} / v{b}"),
            ChainOp::Fma(a, b, c) => write!(f, "fma(v{a}, v{b}, v{c})"),
            ChainOp::Sqrt(a) => write!(f, "sqrt(v{a})"),
            ChainOp::PowerOfTwo(a) => write!(f, "power_of_two(v{a})"),
            ChainOp::Exponent(a) => write!(f, "exponent(v{a})"),
            ChainOp::Significand(a) => write!(f, "significand(v{a})"),
            ChainOp::SelectLess(a, b, c, d) => write!(f, "if v{a} < v{b} {{ v{c} }} else {{ v{d} }}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::program::samples::{affine, scalars, tiles};

    #[test]
    fn affine_expressions() {
        assert_eq!(affine(0, &[]).to_string(), "0");
        assert_eq!(affine(-3, &[]).to_string(), "-3");
        assert_eq!(affine(5, &[(0, 2), (2, -1)]).to_string(), "2*i0 - i2 + 5");
        assert_eq!(affine(-5, &[(1, -16)]).to_string(), "-16*i1 - 5");
    }

    #[test]
    fn a_program_of_maps() {
        insta::assert_snapshot!(scalars(), @"
        program sample: batch 8, 2 groups of 4 lanes
        arena 2304 bytes, scratch 0 bytes a worker

        slots
          %0    activations f32[240]      @0         x persistent
          %1    activations f32[144]      @960       y
          %2    activations f32[144]      @1536      z
          %3    activations f32[48]       @2112      sums

        kernel scalars(x: f32, y: f32, sums: f32)
          for i0 in 0..2, i1 in 0..1, i2 in 0..3
            loop i3 in 0..2
              map scalar d0 in 0..4, d1 in 0..1, d2 in 0..3
                v0 = x[-48*i0 - 16*i2 - 3*i3 + 5*d1 + 95]
                v1 = x[36*i0 + 12*i2 + 3*d0 + 7*d1 + d2]
                v2 = -0.75
                v3 = if v0 < v1 { v2 } else { v0 }
                v4 = fma(v1, v3, v2)
                v5 = v4 / v0
                y[72*i0 + 24*i2 + 12*i3 + 3*d0 + d2] = v5
                sums[6*i0 + 2*i2 + i3] += v4
                sums[3*i0 + i2 + 12] += v3

        schedule train
          scalars(x: %0, y: %1, sums: mut %3)  # node 0
          scalars(x: %1, y: %2, sums: mut %3+18)  # node 0
        ");
    }

    #[test]
    fn a_program_of_tiles() {
        insta::assert_snapshot!(tiles(), @"
        program sample: batch 8, 2 groups of 4 lanes
        arena 5056 bytes, scratch 576 bytes a worker

        slots
          %0    activations f32[192]      @0         input
          %1    activations u32[8]        @768       example
          %2    activations f32[192]      @832       x persistent
          %3    activations f32[864]      @1600      y

        kernel pack(input: f32, example: u32, x: f32)
          for i0 in 0..2
            pack { channels: 2, rows: 3, width: 4 }
              source: input[0]
              example: example[4*i0]
              target: x[96*i0]

        kernel stage(x: f32, y: f32) scratch 144
          for i0 in 0..2
            loop i1 in 0..3
              stage_rows { rows: 3, channels: 2, width: 4, left: 1, right: 1, rows_in_plane: 3, plane_channels: 2, fill: -1.0 }
                source: x[96*i0]
                first_row: i1 - 1
                target: scratch[0]
              map lanes d0 in 0..36
                v0 = scratch[4*d0]
                v1 = v0 + v0
                y[432*i0 + 144*i1 + 4*d0] = v1

        schedule train
          pack(input: %0, example: %1, x: mut %2)  # node 0
          stage(x: %2, y: mut %3)  # node 1
        ");
    }
}
