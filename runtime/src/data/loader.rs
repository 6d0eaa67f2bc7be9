//! Batches, prepared on a thread of their own while the step runs: augmented, normalised, in ONNX order.

use super::normalization::Table;
use super::{Augmentation, DataError, Dataset, Normalization, Pixels, Split, augment::Change, augment::Shift};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Examples, ready to be copied into a network's input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Which examples of the split they are.
    pub examples: Vec<u32>,
    /// Their class indices.
    pub labels: Vec<u32>,
    /// Their values, `[example][channel][row][column]`.
    pub input: Vec<f32>,
}

/// Buffers in flight: one in the step, one ready, one being filled.
const BUFFERS: usize = 3;

/// Turns examples of a split into batches.
#[derive(Debug)]
pub struct Loader<'a> {
    split: &'a Split,
    dims: [usize; 3],
    batch: usize,
    table: Table,
    augmentations: Vec<Augmentation>,
    seed: u64,
}

impl<'a> Loader<'a> {
    /// Of `split`, a split of `data`, in batches of `batch` examples; the seed is that of the augmentations.
    ///
    /// # Errors
    /// A normalisation of another number of channels.
    pub fn new(
        data: &Dataset,
        split: &'a Split,
        batch: usize,
        normalization: &Normalization,
        augmentations: &[Augmentation],
        seed: u64,
    ) -> Result<Self, DataError> {
        let table = normalization.fit(&data.name, data.dims[0])?;
        Ok(Loader { split, dims: data.dims, batch: batch.max(1), table, augmentations: augmentations.to_vec(), seed })
    }

    /// Batches that `examples` examples make; the last may be smaller.
    pub fn batches(&self, examples: usize) -> usize {
        examples.div_ceil(self.batch)
    }

    /// Hands every batch of `order` to `consume`, in order, while the next is prepared; stops at its first error.
    ///
    /// # Errors
    /// What `consume` returns.
    pub fn for_each<E>(&self, epoch: usize, order: &[u32], mut consume: impl FnMut(&Batch) -> Result<(), E>) -> Result<(), E> {
        let (ready, next) = sync_channel(BUFFERS);
        let (give_back, empty) = channel();
        for _ in 0..BUFFERS {
            // The receiver is alive: it moves to the thread below.
            let _ = give_back.send(Batch::default());
        }
        std::thread::scope(|scope| {
            scope.spawn(move || self.prepare(epoch, order, &empty, &ready));
            consume_all(next, give_back, &mut consume)
        })
    }

    /// Fills empty buffers until the order ends or nobody listens.
    fn prepare(&self, epoch: usize, order: &[u32], empty: &Receiver<Batch>, ready: &SyncSender<Batch>) {
        for examples in order.chunks(self.batch) {
            let Ok(mut batch) = empty.recv() else { return };
            self.fill(epoch, examples, &mut batch);
            if ready.send(batch).is_err() {
                return;
            }
        }
    }

    /// Prepares one batch, reusing its memory.
    pub fn fill(&self, epoch: usize, examples: &[u32], batch: &mut Batch) {
        let elements: usize = self.dims.iter().product();
        batch.examples.clear();
        batch.examples.extend_from_slice(examples);
        batch.labels.clear();
        batch.labels.extend(examples.iter().map(|&example| self.split.labels[example as usize]));
        batch.input.resize(examples.len() * elements, 0.0);
        for (&example, target) in examples.iter().zip(batch.input.chunks_exact_mut(elements.max(1))) {
            let change = Change::draw(&self.augmentations, self.seed, epoch, example);
            let range = example as usize * elements..(example as usize + 1) * elements;
            let byte = |channel, value| self.table.byte(channel, value);
            let float = |channel, value| self.table.float(channel, value);
            match (&self.split.pixels, change.only_moves()) {
                (Pixels::U8(bytes), true) => self.place(&bytes[range], change.shift, target, byte),
                (Pixels::F32(values), true) => self.place(&values[range], change.shift, target, float),
                (Pixels::U8(bytes), false) => {
                    let values: Vec<f32> = bytes[range].iter().map(|&value| value.into()).collect();
                    self.change(&values, change, target, Some(255.0), |channel, value| byte(channel, value.round() as u8));
                }
                (Pixels::F32(values), false) => self.change(&values[range], change, target, None, float),
            }
        }
    }

    /// Changes and normalises one example.
    fn change(&self, source: &[f32], change: Change, target: &mut [f32], limit: Option<f32>, normal: impl Fn(usize, f32) -> f32) {
        let [_, rows, width] = self.dims;
        change.apply(source, target, [rows, width], limit);
        for (channel, plane) in target.chunks_exact_mut(rows * width).enumerate() {
            plane.iter_mut().for_each(|value| *value = normal(channel, *value));
        }
    }

    /// Shifts and normalises one example.
    fn place<T: Copy + Default>(&self, source: &[T], shift: Shift, target: &mut [f32], normal: impl Fn(usize, T) -> f32) {
        let [_, rows, width] = self.dims;
        let area = rows * width;
        for (channel, (source, target)) in source.chunks_exact(area).zip(target.chunks_exact_mut(area)).enumerate() {
            if shift == Shift::default() {
                for (target, &value) in target.iter_mut().zip(source) {
                    *target = normal(channel, value);
                }
                continue;
            }
            for (position, target) in target.iter_mut().enumerate() {
                let from = shift.source(position / width, position % width, rows, width);
                *target = normal(channel, from.map_or_else(T::default, |from| source[from]));
            }
        }
    }
}

/// Consumes until the preparing thread is done. Owning both ends, it lets that thread go whenever it returns.
fn consume_all<E>(next: Receiver<Batch>, give_back: Sender<Batch>, consume: &mut impl FnMut(&Batch) -> Result<(), E>) -> Result<(), E> {
    for batch in next {
        consume(&batch)?;
        // Once the last batch is filled nobody takes buffers back.
        let _ = give_back.send(batch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn digits() -> Dataset {
        Dataset::load("digits").unwrap()
    }

    fn loader<'a>(data: &'a Dataset, augmentations: &[Augmentation]) -> Loader<'a> {
        Loader::new(data, &data.train, 32, &data.normalization, augmentations, 7).unwrap()
    }

    fn epoch(loader: &Loader<'_>, number: usize, order: &[u32], pause: bool) -> Vec<Batch> {
        let mut batches = Vec::new();
        let consume = |batch: &Batch| {
            if pause && batch.examples[0].is_multiple_of(2) {
                std::thread::sleep(Duration::from_millis(1));
            }
            batches.push(batch.clone());
            Ok::<(), ()>(())
        };
        loader.for_each(number, order, consume).unwrap();
        batches
    }

    #[test]
    fn every_example_comes_once_and_the_last_batch_is_partial() {
        let data = digits();
        let loader = loader(&data, &[]);
        let order: Vec<u32> = (0..data.train.len() as u32).rev().collect();
        let batches = epoch(&loader, 0, &order, false);
        assert_eq!(batches.len(), loader.batches(order.len()));
        assert_eq!(batches.last().unwrap().examples.len(), order.len() % 32);
        assert!(batches.iter().all(|batch| batch.input.len() == batch.examples.len() * 64 && batch.labels.len() == batch.examples.len()));
        let seen: Vec<u32> = batches.iter().flat_map(|batch| batch.examples.clone()).collect();
        assert_eq!(seen, order);
    }

    #[test]
    fn values_are_the_examples_normalised() {
        let data = digits();
        let mut batch = Batch::default();
        loader(&data, &[]).fill(0, &[5, 3], &mut batch);
        let Pixels::U8(pixels) = &data.train.pixels else { panic!("digits are bytes") };
        let expected: Vec<f32> =
            [5usize, 3].iter().flat_map(|&e| pixels[e * 64..e * 64 + 64].iter().map(|&p| f32::from(p) / 16.0)).collect();
        assert_eq!(batch.input, expected);
        assert_eq!(batch.labels, [data.train.labels[5], data.train.labels[3]]);
    }

    #[test]
    fn timing_changes_nothing_and_the_epoch_does() {
        let data = digits();
        let loader = loader(&data, &[Augmentation::Crop4, Augmentation::HorizontalFlip]);
        let order: Vec<u32> = (0..300).collect();
        let first = epoch(&loader, 4, &order, false);
        assert_eq!(first, epoch(&loader, 4, &order, true));
        assert_ne!(first, epoch(&loader, 5, &order, false));
    }

    #[test]
    fn augmentation_moves_raw_zeros_in() {
        let data = digits();
        let normalization: Normalization = "0.5:0.5".parse().unwrap();
        let loader = Loader::new(&data, &data.train, 8, &normalization, &[Augmentation::Crop4], 7).unwrap();
        let mut batch = Batch::default();
        let example = (0..100).find(|&example| Change::draw(&[Augmentation::Crop4], 7, 0, example).shift.rows == 4).unwrap();
        loader.fill(0, &[example], &mut batch);
        assert!(batch.input[4 * 8..].iter().all(|&value| value == -1.0), "rows past the example are black, normalised");
    }

    #[test]
    fn changed_values_are_bytes_again_before_they_are_normalised() {
        let data = digits();
        let augmentations: Vec<Augmentation> =
            ["rotate15", "brightness", "contrast", "erase"].iter().map(|name| name.parse().unwrap()).collect();
        let mut batch = Batch::default();
        let order: Vec<u32> = (0..64).collect();
        loader(&data, &augmentations).fill(3, &order, &mut batch);
        let whole = |value: f32| (value * 16.0 - (value * 16.0).round()).abs() < 1e-5;
        assert!(batch.input.iter().all(|&value| whole(value) && (0.0..=255.0 / 16.0).contains(&value)));
        let mut plain = Batch::default();
        loader(&data, &[]).fill(3, &order, &mut plain);
        assert!(batch.input.chunks(64).zip(plain.input.chunks(64)).filter(|(a, b)| a != b).count() > 60);
    }

    #[test]
    fn an_error_stops_both_sides() {
        let data = digits();
        let order: Vec<u32> = (0..data.train.len() as u32).collect();
        let mut taken = 0;
        let result = loader(&data, &[]).for_each(0, &order, |_| {
            taken += 1;
            if taken == 3 { Err("enough") } else { Ok(()) }
        });
        assert_eq!((result, taken), (Err("enough"), 3));
    }
}
