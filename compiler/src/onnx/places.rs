//! Indices that are the same for every example but for where the example begins: what exporters make of strided views, from a Range over the batch.

use super::attributes;
use super::frame::{Merged, Turned, arrange};
use super::import::{Binding, Call, Importer};
use super::report::{Kind, Refusal};
use super::shapes::{normalize_axis, unsqueezed_axes};
use super::slicing::chosen;
use super::tensor::{Elements, Extent, Folded};
use crate::op::reference::{broadcast_dims, broadcast_offsets};
use crate::op::{Op, Reshape};

/// Extent of an axis that becomes a sequence.
const LARGEST_SEQUENCE: i64 = 1 << 16;

/// Whole numbers `step * example + offset`.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Extents; 1 where the examples lie.
    dims: Vec<usize>,
    /// The axis along which they lie.
    batch: usize,
    step: i64,
    /// One an element of `dims`.
    offsets: Vec<i64>,
}

/// The places that a node computes, if it computes some.
pub(super) fn follow(importer: &Importer<'_>, call: &Call<'_>) -> Result<Option<Places>, Refusal> {
    let op = call.node.op_type.as_str();
    if op == "Range" {
        let list = |slot: usize| Ok::<_, Refusal>(importer.setting(call, slot)?.map(|folded| folded.elements));
        let counts = |elements: &Option<Elements>, wanted: Extent| matches!(elements, Some(Elements::Integers(n)) if n[..] == [wanted]);
        let over_batch = counts(&list(0)?, Extent::Known(0)) && counts(&list(1)?, Extent::Batch(1)) && counts(&list(2)?, Extent::Known(1));
        return Ok(over_batch.then(|| Places { dims: vec![1], batch: 0, step: 1, offsets: vec![0] }));
    }
    let of = |slot: usize| match call.optional(slot).map(|name| importer.binding(name)) {
        Some(Binding::Places(places)) => Some(places),
        _ => None,
    };
    let (first, second) = (of(0), of(1));
    let (Some(places), slot) = (first.or(second), usize::from(first.is_some())) else { return Ok(None) };
    let other = || Ok::<_, Refusal>(importer.setting(call, slot)?.and_then(|folded| Some((folded.dims.clone(), folded.integers()?))));
    Ok(match op {
        "Identity" | "Cast" if first.is_some() => Some(places.clone()),
        "Unsqueeze" if first.is_some() => Some(places.unsqueezed(&unsqueezed_axes(importer, call)?)?),
        "Mul" => other()?.and_then(|(_, numbers)| if let [factor] = numbers[..] { places.times(factor) } else { None }),
        "Add" => other()?.and_then(|(dims, numbers)| places.plus(&dims, &numbers)),
        _ => None,
    })
}

impl Places {
    fn unsqueezed(&self, axes: &[i64]) -> Result<Places, Refusal> {
        let rank = self.dims.len() + axes.len();
        let axes = axes.iter().map(|&axis| normalize_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
        let kept: Vec<usize> = (0..rank).filter(|axis| !axes.contains(axis)).collect();
        let mut dims = vec![1; rank];
        kept.iter().zip(&self.dims).for_each(|(&axis, &extent)| dims[axis] = extent);
        let batch = kept.get(self.batch).copied();
        let batch = batch.ok_or_else(|| Refusal::new(Kind::Attribute, "inserts an axis twice", "the file is damaged; export it again"))?;
        Ok(Places { dims, batch, ..self.clone() })
    }

    fn times(&self, factor: i64) -> Option<Places> {
        let offsets = self.offsets.iter().map(|offset| offset.checked_mul(factor)).collect::<Option<_>>()?;
        Some(Places { step: self.step.checked_mul(factor)?, offsets, ..self.clone() })
    }

    /// The sum with numbers that are the same for all examples.
    fn plus(&self, dims: &[usize], numbers: &[i64]) -> Option<Places> {
        let all = broadcast_dims(&self.dims, dims);
        let batch = self.batch + all.len() - self.dims.len();
        let fits = |own: &[usize]| own.iter().rev().zip(all.iter().rev()).all(|(&own, &all)| own == all || own == 1);
        if !fits(&self.dims) || !fits(dims) || all[batch] != 1 || all.iter().product::<usize>() > super::prepare::FOLD_LIMIT {
            return None;
        }
        let pairs = broadcast_offsets(&self.dims, &all).into_iter().zip(broadcast_offsets(dims, &all));
        let offsets = pairs.map(|(own, other)| self.offsets[own].checked_add(numbers[other])).collect::<Option<_>>()?;
        Some(Places { dims: all, batch, step: self.step, offsets })
    }

    /// Gathers from the rows of all examples, one after the other: each example from its own.
    pub(super) fn gather<'m>(&self, importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
        let other = || Refusal::unsupported("gathers by indices that reach into other examples", "the examples must stay apart");
        let x = importer.turned_operand(call, 0)?;
        let axis = attributes::int(call.node, "axis")?.unwrap_or(0);
        let &[Extent::Batch(rows)] = &x.extents(&importer.graph)[..] else { return Err(other()) };
        let row = |&offset: &i64| usize::try_from(offset).ok().filter(|_| offset < rows);
        let chosen_rows = self.offsets.iter().map(row).collect::<Option<Vec<_>>>().filter(|_| self.step == rows && matches!(axis, 0 | -1));
        let chosen_rows = chosen_rows.ok_or_else(other)?;
        let mut extents: Vec<Extent> = self.dims.iter().map(|&n| Extent::Known(n as i64)).collect();
        extents[self.batch] = Extent::Batch(1);
        let (Some((shape, batch, merged)), true) = (arrange(&extents, 1), x.merged == (Merged { outer: false, inner: true })) else {
            return Err(other());
        };
        let mut value = x.value;
        if let Some(op) = chosen(1, rows as usize, &chosen_rows) {
            value = importer.add(call, op, &[value], "rows")?;
        }
        if *importer.graph.shape(value) != shape {
            value = importer.add(call, Op::from(Reshape { shape }), &[value], "places")?;
        }
        importer.bind_turned(call.output()?, Turned { value, batch, merged });
        Ok(())
    }
}

/// The parts that SplitToSequence makes; SequenceAt takes one of them.
pub(super) fn split<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let x = importer.turned_operand(call, 0)?;
    let axis = normalize_axis(attributes::int(call.node, "axis")?.unwrap_or(0), x.rank(&importer.graph))?;
    let known = importer.setting(call, 1)?.and_then(|folded: Folded| Some((folded.dims.clone(), folded.integers()?)));
    let extent = match x.extents(&importer.graph)[axis] {
        Extent::Known(extent) if extent <= LARGEST_SEQUENCE && attributes::int(call.node, "keepdims")?.unwrap_or(1) != 0 => extent,
        _ => {
            return Err(Refusal::unsupported(
                "splits along the examples, drops the axis, or makes too many parts",
                "split along another axis, keepdims = 1",
            ));
        }
    };
    let sizes = match known {
        Some((dims, sizes)) if dims.is_empty() && sizes[0] > 0 => {
            (0..extent).step_by(usize::try_from(sizes[0]).unwrap_or(1)).map(|start| sizes[0].min(extent - start)).collect()
        }
        Some((_, sizes)) if sizes.iter().all(|&size| size > 0) && sizes.iter().sum::<i64>() == extent => sizes,
        None if call.optional(1).is_none() => vec![1; extent as usize],
        _ => return Err(Refusal::new(Kind::Shape, format!("splits {extent} elements"), "constant parts that add up to them are needed")),
    };
    let mut start = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for size in sizes {
        let rows: Vec<usize> = (start..start + size as usize).collect();
        start += rows.len();
        let value = match chosen(x.axis(axis), extent as usize, &rows) {
            Some(op) => importer.add(call, op, &[x.value], "part")?,
            None => x.value,
        };
        parts.push(Turned { value, ..x });
    }
    importer.bind_sequence(call.output()?, parts);
    Ok(())
}

pub(super) fn sequence_at<'m>(importer: &mut Importer<'m>, call: &Call<'m>) -> Result<(), Refusal> {
    let index = importer.setting(call, 1)?.and_then(|folded| folded.integers()).and_then(|index| index.first().copied());
    let Binding::Sequence(parts) = importer.binding(call.input(0)?) else {
        return Err(Refusal::unsupported("reads a sequence that is not the parts of one tensor", "use Split"));
    };
    let part = index.and_then(|index| usize::try_from(if index < 0 { index + parts.len() as i64 } else { index }).ok());
    let part = part.and_then(|index| parts.get(index).copied());
    let part =
        part.ok_or_else(|| Refusal::new(Kind::Shape, "takes a part that is not there, or not known at import", "use a constant index"))?;
    importer.bind_turned(call.output()?, part);
    Ok(())
}
