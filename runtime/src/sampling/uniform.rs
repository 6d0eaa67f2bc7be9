//! Every example that is in, once an epoch, in a random order.

use super::{Sampling, SamplingState};
use crate::random::{Purpose, Stream};

/// Shuffles a set of examples anew each epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uniform {
    included: Vec<u32>,
    seed: u64,
}

impl Uniform {
    /// Over `included`, whose order enters into the result.
    pub fn new(included: impl IntoIterator<Item = u32>, seed: u64) -> Self {
        Uniform { included: included.into_iter().collect(), seed }
    }
}

impl Sampling for Uniform {
    fn begin(&mut self, _epoch: usize) {}

    fn order(&self, epoch: usize) -> Vec<u32> {
        let mut order = self.included.clone();
        Stream::new(self.seed, Purpose::Shuffle, epoch as u64).shuffle(&mut order);
        order
    }

    fn record(&mut self, _example: u32, _correct: bool) {}

    fn end(&mut self) {}

    fn removed(&self) -> usize {
        0
    }

    fn unforgettable(&self) -> Option<usize> {
        None
    }

    fn state(&self) -> Option<SamplingState> {
        None
    }

    fn restore(&mut self, _state: Option<&SamplingState>) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_included_example_comes_once_in_a_new_order() {
        let sampling = Uniform::new((0..1000).filter(|example| example % 3 != 0), 5);
        let (first, second) = (sampling.order(0), sampling.order(1));
        assert_eq!(first, sampling.order(0));
        assert_ne!(first, second);
        assert_ne!(first, Uniform::new((0..1000).filter(|example| example % 3 != 0), 6).order(0));
        for order in [first, second] {
            let mut sorted = order;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..1000).filter(|example| example % 3 != 0).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_place_is_equally_likely() {
        let sampling = Uniform::new(0..8, 1);
        let mut places = [0; 8];
        for epoch in 0..8000 {
            places[sampling.order(epoch).iter().position(|&example| example == 3).unwrap()] += 1;
        }
        assert!(places.iter().all(|&count: &i32| (850..1150).contains(&count)), "{places:?}");
    }
}
