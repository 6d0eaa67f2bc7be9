//! Checks a program before any engine runs it: every name resolves, and every address stays inside its slot, whatever the values of the
//! domain's and the loops' variables. What a tile does beyond the address it is given is the tile's contract, not checked here.
//!
//! The code generators rely on this: an address that passed is what makes their raw loads and stores sound.

use super::{Address, Affine, Base, Kernel, Launch, Map, MapOperand, Operand, Program, Statement, Width, nest, text};
use mest_runtime::arena::ALIGNMENT;
use mest_runtime::manifest::Element;
use mest_runtime::tile::OperandKind;

/// A program that can't be run: always a fault of the compiler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("internal error in {place}: {problem}; this is a fault of the compiler, not of the model: please report it")]
pub struct InvalidProgram {
    /// The slot, the kernel, or the kernel and the launch.
    pub place: String,
    /// What is wrong.
    pub problem: String,
}

/// Elements that a kernel reaches of one argument, from where the argument points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reach {
    first: i128,
    end: i128,
    /// Whether whole vectors are read or written there, so that it must be aligned to one.
    vectors: bool,
}

/// Checks the whole program.
///
/// # Errors
/// [`InvalidProgram`] with the first fault found.
pub fn check(program: &Program) -> Result<(), InvalidProgram> {
    check_slots(program)?;
    let reaches: Vec<Vec<Reach>> = program.kernels.iter().map(|kernel| check_kernel(program, kernel)).collect::<Result<_, _>>()?;
    program.schedules.iter().flat_map(|schedule| &schedule.launches).try_for_each(|launch| check_launch(program, &reaches, launch))
}

fn check_slots(program: &Program) -> Result<(), InvalidProgram> {
    for slot in &program.slots {
        let end = slot.len.checked_mul(slot.element.bytes()).and_then(|bytes| bytes.checked_add(slot.offset));
        let problem = if !slot.offset.is_multiple_of(ALIGNMENT) {
            format!("offset {} is no multiple of {ALIGNMENT}", slot.offset)
        } else if end.is_none_or(|end| end > program.manifest.arena_bytes) {
            format!("{} elements at byte {} leave the arena of {} bytes", slot.len, slot.offset, program.manifest.arena_bytes)
        } else {
            continue;
        };
        return Err(InvalidProgram { place: format!("slot `{}`", slot.name), problem });
    }
    Ok(())
}

fn check_kernel(program: &Program, kernel: &Kernel) -> Result<Vec<Reach>, InvalidProgram> {
    let lanes = program.manifest.lanes;
    let mut walk = Walk { kernel, lanes, extents: kernel.domain.clone(), reaches: vec![None; kernel.arguments.len()] };
    let scratch_bytes = program.manifest.scratch_bytes;
    let result = if kernel.scratch * 4 > scratch_bytes {
        Err(format!("needs {} elements of scratch, a worker has {scratch_bytes} bytes", kernel.scratch))
    } else if !matches!(lanes, 4 | 8 | 16) {
        Err(format!("the program has {lanes} lanes, not 4, 8 or 16"))
    } else {
        walk.statements(&kernel.body)
    };
    match result {
        Ok(()) => Ok(walk.reaches.into_iter().map(Option::unwrap_or_default).collect()),
        Err(problem) => Err(InvalidProgram { place: format!("kernel `{}`", kernel.name), problem }),
    }
}

fn check_launch(program: &Program, reaches: &[Vec<Reach>], launch: &Launch) -> Result<(), InvalidProgram> {
    let kernel = program.kernels.get(launch.kernel);
    let problem = match kernel {
        None => Err(format!("kernel {} does not exist", launch.kernel)),
        Some(kernel) => check_arguments(program, kernel, &reaches[launch.kernel], launch),
    };
    problem.map_err(|problem| {
        let kernel = kernel.map_or("?", |kernel| &kernel.name);
        InvalidProgram { place: format!("kernel `{kernel}` launched by `{}`", launch.label), problem }
    })
}

fn check_arguments(program: &Program, kernel: &Kernel, reaches: &[Reach], launch: &Launch) -> Result<(), String> {
    let count = kernel.arguments.len();
    if launch.arguments.len() != count || launch.writes.len() != count {
        return Err(format!("{count} arguments wanted, {} given with {} write marks", launch.arguments.len(), launch.writes.len()));
    }
    for (((name, element), reach), &(slot, offset)) in kernel.arguments.iter().zip(reaches).zip(&launch.arguments) {
        let Some(slot) = program.slots.get(slot.0) else {
            return Err(format!("argument `{name}` is slot {}, which does not exist", slot.0));
        };
        if slot.element != *element {
            return Err(format!("argument `{name}` is {element:?}, slot `{}` holds {:?}", slot.name, slot.element));
        }
        let (first, end) = (reach.first + offset as i128, reach.end + offset as i128);
        if first < 0 || end > slot.len as i128 {
            return Err(format!("argument `{name}` reaches elements {first}..{end} of slot `{}`, which has {}", slot.name, slot.len));
        }
        if reach.vectors && !offset.is_multiple_of(program.manifest.lanes) {
            return Err(format!("argument `{name}` starts at element {offset} of slot `{}`, within a vector", slot.name));
        }
    }
    Ok(())
}

/// Walks a kernel's body; `extents` are those of the variables in scope.
struct Walk<'a> {
    kernel: &'a Kernel,
    lanes: usize,
    extents: Vec<usize>,
    reaches: Vec<Option<Reach>>,
}

impl Walk<'_> {
    fn statements(&mut self, body: &[Statement]) -> Result<(), String> {
        body.iter().try_for_each(|statement| match statement {
            Statement::Loop { count, body } => {
                self.extents.push(*count);
                let result = self.statements(body);
                self.extents.pop();
                result
            }
            Statement::Tile { tile, operands } => {
                let wanted = tile.operands();
                if wanted.len() != operands.len() {
                    return Err(format!("tile {} takes {} operands, {} given", tile.name(), wanted.len(), operands.len()));
                }
                wanted.iter().zip(operands).try_for_each(|((name, kind), operand)| {
                    self.tile_operand(*kind, operand).map_err(|problem| format!("operand `{name}` of tile {}: {problem}", tile.name()))
                })
            }
            Statement::Map(map) => self.map(map),
        })
    }

    fn tile_operand(&mut self, kind: OperandKind, operand: &Operand) -> Result<(), String> {
        match (kind, operand) {
            (OperandKind::Pointer | OperandKind::Halves, Operand::Address(address)) => {
                if let Base::Argument(i) = address.base
                    && let Some((argument, element)) = self.kernel.arguments.get(i)
                    && (*element == Element::Bf16) != (kind == OperandKind::Halves)
                {
                    let wanted = if kind == OperandKind::Halves { "is" } else { "is not" };
                    return Err(format!("argument `{argument}` is of {}; what the tile takes {wanted} of bf16", text::element(*element)));
                }
                self.address(address, &[], &[], 0, false)
            }
            (OperandKind::Integer, Operand::Integer(value)) => self.range(value).map(|_| ()),
            (OperandKind::Pointer | OperandKind::Halves, Operand::Integer(_)) => Err("an integer where a pointer is wanted".to_owned()),
            (OperandKind::Integer, Operand::Address(_)) => Err("a pointer where an integer is wanted".to_owned()),
        }
    }

    fn map(&mut self, map: &Map) -> Result<(), String> {
        let written = map.stores.iter().chain(&map.sums);
        if written.clone().any(|(operand, _)| operand.splat) {
            return Err("a map writes one element from many lanes".to_owned());
        }
        let narrow = |base| matches!(base, Base::Argument(i) if self.kernel.arguments.get(i).is_some_and(|(_, e)| *e == Element::Bf16));
        if map.sums.iter().any(|(operand, _)| narrow(operand.address.base)) {
            return Err("a map sums up halves".to_owned());
        }
        let values = map.loads.len() + map.operations.len();
        let early = map.operations.iter().enumerate().find(|(i, op)| nest::operands(op).iter().any(|&v| v >= map.loads.len() + i));
        if let Some((_, operation)) = early {
            return Err(format!("operation `{operation}` reads a value that comes after it"));
        }
        if let Some((_, value)) = written.clone().find(|(_, value)| *value >= values) {
            return Err(format!("a map writes v{value}, which it does not compute"));
        }
        map.loads.iter().chain(written.map(|(operand, _)| operand)).try_for_each(|operand| self.map_operand(map, operand))
    }

    fn map_operand(&mut self, map: &Map, operand: &MapOperand) -> Result<(), String> {
        if operand.strides.len() != map.extents.len() {
            return Err(format!("a map of {} dimensions has an operand with {} strides", map.extents.len(), operand.strides.len()));
        }
        match operand.address.base {
            Base::Null => return Err("a map reads or writes a null pointer".to_owned()),
            Base::Argument(i) => match self.kernel.arguments.get(i) {
                Some((name, Element::U32)) => return Err(format!("a map reads or writes argument `{name}`, which is no float")),
                Some((name, Element::Bf16)) if map.width == Width::Scalar || operand.splat => {
                    return Err(format!("a map reads or writes single elements of argument `{name}`, which are halves"));
                }
                Some(_) | None => {}
            },
            Base::Scratch => {}
        }
        let vector = map.width == Width::Lanes && !operand.splat;
        if vector {
            let offset = &operand.address.offset;
            let aligned = |step: isize| step.unsigned_abs().is_multiple_of(self.lanes);
            let moves = operand.strides.iter().zip(&map.extents).filter(|(_, extent)| **extent > 1);
            if !aligned(offset.constant)
                || !offset.terms.iter().all(|(_, c)| aligned(*c))
                || !moves.clone().all(|(s, _)| aligned(*s as isize))
            {
                return Err(format!("a vector at {offset} by {:?} is not aligned to {} lanes", operand.strides, self.lanes));
            }
        }
        let width = if vector { self.lanes } else { 1 };
        self.address(&operand.address, &operand.strides, &map.extents, width, vector)
    }

    /// Records what `width` elements at the address reach; a width of 0 is a pointer that may be one past the end.
    fn address(&mut self, at: &Address, strides: &[usize], extents: &[usize], width: usize, vectors: bool) -> Result<(), String> {
        let (first, last) = self.range(&at.offset)?;
        let moved: i128 = strides.iter().zip(extents).map(|(stride, extent)| *stride as i128 * (extent.saturating_sub(1)) as i128).sum();
        let reach = Reach { first, end: last + moved + width as i128, vectors };
        match at.base {
            Base::Null => Ok(()),
            Base::Scratch if reach.first < 0 || reach.end > self.kernel.scratch as i128 => {
                Err(format!("{}..{} of a scratch of {} elements", reach.first, reach.end, self.kernel.scratch))
            }
            Base::Scratch => Ok(()),
            Base::Argument(argument) => {
                let slot = self.reaches.get_mut(argument).ok_or_else(|| format!("argument {argument} does not exist"))?;
                *slot = Some(slot.map_or(reach, |old| Reach {
                    first: old.first.min(reach.first),
                    end: old.end.max(reach.end),
                    vectors: old.vectors || reach.vectors,
                }));
                Ok(())
            }
        }
    }

    /// Smallest and largest value of an expression over the variables in scope.
    fn range(&self, affine: &Affine) -> Result<(i128, i128), String> {
        let start = affine.constant as i128;
        affine.terms.iter().try_fold((start, start), |(low, high), &(variable, coefficient)| {
            let extent = self.extents.get(variable).ok_or_else(|| format!("variable i{variable} is not in scope in {affine}"))?;
            let span = coefficient as i128 * extent.saturating_sub(1) as i128;
            Ok((low + span.min(0), high + span.max(0)))
        })
    }
}
