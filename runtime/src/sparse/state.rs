//! Values between the arena and the outside: initial state, dense views, masks, the finished model file.

use super::mask::{self, Units};
use super::structure::Growth;
use super::topology;
use crate::arena::Arena;
use crate::lanes::math::{narrowed, widened};
use crate::manifest::{Element, Manifest, Parameter, Slot, Storage};
use crate::prelude::*;
use crate::random::{Purpose, Stream};
use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use bumpalo::Bump;

/// How the masks of the first step are chosen. Layers that are computed densely have every unit live whatever this says.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum InitialMasks {
    /// The units of largest magnitude, as MEST begins.
    #[default]
    Magnitude,
    /// Units drawn uniformly.
    Random,
    /// Every unit, whatever the budget.
    All,
    /// By parameter name: whether each element, in ONNX order, is live. Parameters that are not named are masked by magnitude.
    Given(BTreeMap<String, Vec<bool>>),
}

/// State that does not fit the network.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StateError {
    /// No such parameter.
    #[error("a mask is given for '{name}', which is no parameter of this model; its sparse parameters: {known}")]
    UnknownParameter {
        /// The name.
        name: String,
        /// Names that would do.
        known: String,
    },
    /// A list of the wrong length.
    #[error("parameter '{name}': {got} values given where its tensor has {expected}")]
    Length {
        /// The parameter.
        name: String,
        /// How many came.
        got: usize,
        /// How many belong.
        expected: usize,
    },
    /// A mask that cuts through a unit.
    #[error(
        "parameter '{name}': the mask is no union of {rows}x{columns} blocks (element {element} differs from its block); compile the layer \
         with scheme unstructured, or give a mask of whole blocks"
    )]
    CutsUnit {
        /// The parameter.
        name: String,
        /// Rows of its blocks.
        rows: usize,
        /// Columns of its blocks.
        columns: usize,
        /// The first element that differs, in ONNX order.
        element: usize,
    },
    /// More live units than there is memory for.
    #[error("parameter '{name}': {live} live units exceed its capacity of {capacity}; compile it for a density of at least {density:.4}")]
    Capacity {
        /// The parameter.
        name: String,
        /// Live units asked for.
        live: usize,
        /// Units that fit.
        capacity: usize,
        /// Density that would do.
        density: f64,
    },
    /// A mask for a parameter that has none.
    #[error("parameter '{name}' is computed densely and cannot be masked; make the layer sparse (density below 1), or leave its mask out")]
    Dense {
        /// The parameter.
        name: String,
    },
    /// Units that are not ascending, or do not exist.
    #[error("parameter '{name}': live units must ascend and be below {count}; unit {unit} does not")]
    Units {
        /// The parameter.
        name: String,
        /// Units there are.
        count: usize,
        /// The first that is wrong.
        unit: u32,
    },
    /// A model file that is shorter than its parameters.
    #[error("parameter '{name}': the model template ends at byte {end}, before the parameter's values; compile the model again")]
    Template {
        /// The parameter.
        name: String,
        /// Bytes of the template.
        end: usize,
    },
}

/// Elements of a parameter's tensor.
pub fn element_count(parameter: &Parameter) -> usize {
    parameter.dims.iter().product()
}

/// Puts constants, the template's values, initial masks, counts and streams into the arena, and zeros gradients and moments.
///
/// # Errors
/// A given mask does not fit its parameter, or the template is too short. The arena is then unusable until initialised.
pub fn initialize(manifest: &Manifest, arena: &mut Arena, masks: &InitialMasks, seed: u64) -> Result<(), StateError> {
    if let InitialMasks::Given(given) = masks {
        let known = |name: &String| manifest.parameters.iter().any(|parameter| parameter.name == *name);
        if let Some(name) = given.keys().find(|name| !known(name)) {
            let sparse = manifest.parameters.iter().filter(|parameter| budgeted_density(parameter).is_some());
            let known = sparse.map(|parameter| parameter.name.as_ref()).collect::<Vec<_>>().join(", ");
            return Err(StateError::UnknownParameter { name: name.clone(), known });
        }
    }
    for constant in manifest.constants.iter() {
        arena.floats_mut(constant.slot).copy_from_slice(&constant.values);
    }
    let mut bump = Bump::new();
    for (index, parameter) in manifest.parameters.iter().enumerate() {
        bump.reset();
        let dense = template_values(manifest, index)?;
        for slot in core::iter::once(&parameter.value).chain(&parameter.gradient).chain(parameter.moments.iter()) {
            arena.bytes_of_mut(*slot).fill(0);
        }
        match parameter.storage {
            Storage::Plain => {
                if let InitialMasks::Given(given) = masks
                    && given.get(parameter.name.as_ref()).is_some_and(|mask| mask.contains(&false))
                {
                    return Err(StateError::Dense { name: parameter.name.to_string() });
                }
                arena.words_mut(parameter.count)[0] = dense.len() as u32;
                arena.floats_mut(parameter.value).copy_from_slice(&dense);
            }
            Storage::Matrix { units: slot, .. } => {
                let live = initial_mask(&bump, parameter, index, &dense, masks, seed)?;
                check_units(parameter, live)?;
                store_units(arena, parameter, slot, live);
                scatter(parameter, live, &dense, arena.floats_mut(parameter.value));
                topology::rebuild_within(&bump, manifest, arena, index);
            }
        }
    }
    Ok(())
}

fn budgeted_density(parameter: &Parameter) -> Option<f64> {
    match parameter.storage {
        Storage::Matrix { density, .. } => density,
        Storage::Plain => None,
    }
}

fn template_values(manifest: &Manifest, index: usize) -> Result<Vec<f32>, StateError> {
    let (parameter, template) = (&manifest.parameters[index], &manifest.template);
    let bytes = template.offsets.get(index).and_then(|&first| template.bytes.get(first..first + element_count(parameter) * 4));
    let bytes = bytes.ok_or_else(|| StateError::Template { name: parameter.name.to_string(), end: template.bytes.len() })?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect())
}

fn initial_mask<'b>(
    bump: &'b Bump,
    parameter: &Parameter,
    index: usize,
    dense: &[f32],
    masks: &InitialMasks,
    seed: u64,
) -> Result<&'b [u32], StateError> {
    let Storage::Matrix { matrix, block, structure, density, .. } = parameter.storage else { return Ok(&[]) };
    let units = Units::new(matrix, block).structured(structure);
    if let InitialMasks::Given(given) = masks
        && let Some(mask) = given.get(parameter.name.as_ref())
    {
        let live = units_of_mask(parameter, &units, mask)?;
        if density.is_none() && live.len() < units.count() {
            return Err(StateError::Dense { name: parameter.name.to_string() });
        }
        return Ok(bump.alloc_slice_copy(&live));
    }
    let all = &*bump.alloc_slice_fill_with(units.count(), |unit| unit as u32);
    let Some(density) = density.filter(|_| *masks != InitialMasks::All) else { return Ok(all) };
    let budget = units.budget(density);
    if *masks == InitialMasks::Random {
        let mut stream = Stream::of_item(seed, Purpose::InitialMask, 0, index as u32);
        let drawn = units.candidates(bump, &[], budget, budget, Growth::Random(1), &mut stream);
        return Ok(units.units_of(bump, &drawn));
    }
    let values: Vec<f32> = all.iter().flat_map(|&unit| units.onnx_indices(unit)).map(|element| dense[element]).collect();
    Ok(units.keep_best(bump, all, mask::importance(bump, &values, &[], 0.0, units.elements()), budget, budget))
}

/// The live units of a mask by element.
fn units_of_mask(parameter: &Parameter, units: &Units, mask: &[bool]) -> Result<Vec<u32>, StateError> {
    let name = || parameter.name.to_string();
    if mask.len() != units.weights() {
        return Err(StateError::Length { name: name(), got: mask.len(), expected: units.weights() });
    }
    let mut live = Vec::new();
    for unit in 0..units.count() as u32 {
        let mut elements = units.onnx_indices(unit);
        let alive = elements.next().is_some_and(|first| mask[first]);
        if let Some(element) = elements.find(|&element| mask[element] != alive) {
            return Err(StateError::CutsUnit { name: name(), rows: units.block.rows, columns: units.block.columns, element });
        }
        if alive {
            live.push(unit);
        }
    }
    Ok(live)
}

/// Whether `live` is a mask that the parameter can hold.
fn check_units(parameter: &Parameter, live: &[u32]) -> Result<(), StateError> {
    let name = || parameter.name.to_string();
    let Storage::Matrix { matrix, block, capacity, .. } = parameter.storage else { return Err(StateError::Dense { name: name() }) };
    let count = Units::new(matrix, block).count();
    if live.len() > capacity {
        let density = live.len() as f64 / count as f64;
        return Err(StateError::Capacity { name: name(), live: live.len(), capacity, density });
    }
    let wrong = live.iter().enumerate().find(|&(i, &unit)| unit as usize >= count || (i > 0 && live[i - 1] >= unit));
    match wrong {
        Some((_, &unit)) => Err(StateError::Units { name: name(), count, unit }),
        None => Ok(()),
    }
}

fn store_units(arena: &mut Arena, parameter: &Parameter, slot: Slot, live: &[u32]) {
    arena.words_mut(parameter.count)[0] = live.len() as u32;
    let (front, back) = arena.words_mut(slot).split_at_mut(live.len());
    front.copy_from_slice(live);
    back.fill(0);
}

/// Puts the elements of a dense tensor that belong to live units into storage order.
fn scatter(parameter: &Parameter, live: &[u32], dense: &[f32], stored: &mut [f32]) {
    let Storage::Matrix { matrix, block, .. } = parameter.storage else { return stored.copy_from_slice(dense) };
    let units = Units::new(matrix, block);
    let elements = live.iter().flat_map(|&unit| units.onnx_indices(unit));
    for (place, element) in stored.iter_mut().zip(elements) {
        *place = dense[element];
    }
}

/// The dense tensor, in ONNX order, of what a slot of parameter `index` stores; dead elements are 0.
fn gather(manifest: &Manifest, arena: &Arena, index: usize, slot: Slot) -> Vec<f32> {
    let (parameter, stored) = (&manifest.parameters[index], stored(arena, slot));
    let Storage::Matrix { matrix, block, .. } = parameter.storage else { return stored.into_owned() };
    let units = Units::new(matrix, block);
    let mut dense = vec![0.0; element_count(parameter)];
    let elements = live_units(manifest, arena, index).iter().flat_map(|&unit| units.onnx_indices(unit));
    for (&value, element) in stored.iter().zip(elements) {
        dense[element] = value;
    }
    dense
}

/// The values of a slot of floats or halves.
fn stored(arena: &Arena, slot: Slot) -> Cow<'_, [f32]> {
    match slot.element {
        Element::Bf16 => arena.halves(slot).iter().map(|&half| widened(half)).collect(),
        Element::F32 | Element::U32 => Cow::Borrowed(arena.floats(slot)),
    }
}

/// Writes `values` to the front of a slot of floats, or of halves: those are rounded to the nearest.
pub(crate) fn store(arena: &mut Arena, slot: Slot, values: &[f32]) {
    match slot.element {
        Element::Bf16 => arena.halves_mut(slot).iter_mut().zip(values).for_each(|(half, &value)| *half = narrowed(value)),
        Element::F32 | Element::U32 => arena.floats_mut(slot)[..values.len()].copy_from_slice(values),
    }
}

/// The live units of parameter `index`, in place; none for plain storage.
pub(crate) fn live_units<'a>(manifest: &Manifest, arena: &'a Arena, index: usize) -> &'a [u32] {
    match manifest.parameters[index].storage {
        Storage::Plain => &[],
        Storage::Matrix { units, .. } => &arena.words(units)[..arena.words(manifest.parameters[index].count)[0] as usize],
    }
}

/// The values of parameter `index` as a dense tensor in ONNX order.
pub fn read(manifest: &Manifest, arena: &Arena, index: usize) -> Vec<f32> {
    gather(manifest, arena, index, manifest.parameters[index].value)
}

/// The gradient of the last step, as [`read`]; `None` unless the parameter is trainable.
pub fn read_gradient(manifest: &Manifest, arena: &Arena, index: usize) -> Option<Vec<f32>> {
    manifest.parameters[index].gradient.map(|slot| gather(manifest, arena, index, slot))
}

/// Moment `moment` of the optimiser, as [`read`]; `None` where there is none.
pub fn read_moment(manifest: &Manifest, arena: &Arena, index: usize, moment: usize) -> Option<Vec<f32>> {
    manifest.parameters[index].moments.get(moment).map(|&slot| gather(manifest, arena, index, slot))
}

/// Overwrites the live values of parameter `index` from a dense tensor in ONNX order; elements of dead units are ignored.
///
/// # Errors
/// `dense` has not one value an element.
pub fn write(manifest: &Manifest, arena: &mut Arena, index: usize, dense: &[f32]) -> Result<(), StateError> {
    put(manifest, arena, index, manifest.parameters[index].value, dense)?;
    topology::refresh_values(manifest, arena, index);
    Ok(())
}

/// Overwrites moment `moment`, as [`write()`], rounded to the nearest where it is stored as halves; nothing happens where there is none.
///
/// # Errors
/// `dense` has not one value an element.
pub fn write_moment(manifest: &Manifest, arena: &mut Arena, index: usize, moment: usize, dense: &[f32]) -> Result<(), StateError> {
    match manifest.parameters[index].moments.get(moment) {
        Some(&slot) => put(manifest, arena, index, slot, dense),
        None => Ok(()),
    }
}

fn put(manifest: &Manifest, arena: &mut Arena, index: usize, slot: Slot, dense: &[f32]) -> Result<(), StateError> {
    let parameter = &manifest.parameters[index];
    let expected = element_count(parameter);
    if dense.len() != expected {
        return Err(StateError::Length { name: parameter.name.to_string(), got: dense.len(), expected });
    }
    let live = mask(manifest, arena, index);
    let mut values = stored(arena, slot).into_owned();
    scatter(parameter, &live, dense, &mut values);
    store(arena, slot, &values);
    Ok(())
}

/// The live units of parameter `index`, ascending; none for plain storage.
pub fn mask(manifest: &Manifest, arena: &Arena, index: usize) -> Vec<u32> {
    live_units(manifest, arena, index).to_vec()
}

/// Makes `live` the live units of parameter `index`: values, gradient and moments of units that stay move with them, those of dropped
/// units vanish, new ones are 0. Rebuilds the parameter's streams.
///
/// # Errors
/// `live` does not ascend, names a unit that does not exist, or exceeds the capacity; nothing has changed then.
pub fn set_mask(manifest: &Manifest, arena: &mut Arena, index: usize, live: &[u32]) -> Result<(), StateError> {
    set_mask_within(&Bump::new(), manifest, arena, index, live)
}

/// [`set_mask`], in memory that is reused.
pub(crate) fn set_mask_within(bump: &Bump, manifest: &Manifest, arena: &mut Arena, index: usize, live: &[u32]) -> Result<(), StateError> {
    remap(bump, manifest, arena, index, live)?;
    topology::rebuild_within(bump, manifest, arena, index);
    Ok(())
}

/// [`set_mask`] without the streams, for callers that change the mask again at once.
pub(crate) fn remap(bump: &Bump, manifest: &Manifest, arena: &mut Arena, index: usize, live: &[u32]) -> Result<(), StateError> {
    let parameter = &manifest.parameters[index];
    check_units(parameter, live)?;
    let Storage::Matrix { block, units: slot, .. } = parameter.storage else { return Ok(()) };
    let from = old_positions(bump, live_units(manifest, arena, index), live);
    for slot in core::iter::once(&parameter.value).chain(&parameter.gradient).chain(parameter.moments.iter()) {
        move_units(arena.bytes_of_mut(*slot), block.rows * block.columns * slot.element.bytes(), from);
    }
    store_units(arena, parameter, slot, live);
    Ok(())
}

/// For each unit of `new`: its position in `old`, if it was there.
fn old_positions<'b>(bump: &'b Bump, old: &[u32], new: &[u32]) -> &'b [Option<u32>] {
    let mut position = 0;
    bump.alloc_slice_fill_with(new.len(), |index| {
        let unit = new[index];
        while position < old.len() && old[position] < unit {
            position += 1;
        }
        (old.get(position) == Some(&unit)).then_some(position as u32)
    })
}

/// Moves units of `size` bytes from their old to their new positions, in place; zeros new ones and everything behind the last.
fn move_units(bytes: &mut [u8], size: usize, from: &[Option<u32>]) {
    // Kept units first close up towards the front, where no move can overtake another, then spread out from the back.
    let mut kept = 0;
    for old in from.iter().flatten() {
        let old = *old as usize * size;
        bytes.copy_within(old..old + size, kept * size);
        kept += 1;
    }
    for (position, old) in from.iter().enumerate().rev() {
        let place = position * size;
        match old {
            Some(_) => {
                kept -= 1;
                bytes.copy_within(kept * size..(kept + 1) * size, place);
            }
            None => bytes[place..place + size].fill(0),
        }
    }
    bytes[from.len() * size..].fill(0);
}

/// Live weights over weights, of the layers that have a density budget; 1 where there is none.
pub fn density(manifest: &Manifest, arena: &Arena) -> f64 {
    let (mut live, mut weights) = (0, 0);
    for (index, parameter) in manifest.parameters.iter().enumerate() {
        if let Storage::Matrix { matrix, block, density: Some(_), .. } = parameter.storage {
            let units = Units::new(matrix, block);
            live += live_units(manifest, arena, index).len() * units.elements();
            weights += units.weights();
        }
    }
    if weights == 0 { 1.0 } else { live as f64 / weights as f64 }
}

/// The finished model file: the template with the parameters' values in it, dead weights as zeros.
pub fn export(manifest: &Manifest, arena: &Arena) -> Vec<u8> {
    let mut bytes = manifest.template.bytes.to_vec();
    for (index, &first) in manifest.template.offsets.iter().enumerate() {
        let dense = read(manifest, arena, index);
        for (word, value) in bytes[first..].as_chunks_mut::<4>().0.iter_mut().zip(dense) {
            *word = value.to_le_bytes();
        }
    }
    bytes
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
