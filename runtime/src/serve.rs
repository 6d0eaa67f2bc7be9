//! A network in a process of its own, driven over a pair of pipes: how a compiled program is compared with what another engine computes.
//!
//! A request is a byte for the phase, the number of rounds to time (0: run it once) and the arena; the answer is seconds of each round and the
//! process's peak memory, and the arena. The caller's copy is the state between phases, so that everything that reads and writes a [`Network`]
//! works on it unchanged. Numbers are little-endian.

use crate::arena::Arena;
use crate::manifest::{Element, Slot};
use crate::network::{Network, Phase, Timing};
use std::io::{self, Read, Write};

/// Bytes moved at once.
const CHUNK: usize = 1 << 16;

/// Answers requests until the input ends.
///
/// # Errors
/// A pipe breaks, or a request is not one.
pub fn serve(net: &mut dyn Network, input: &mut dyn Read, output: &mut dyn Write) -> io::Result<()> {
    loop {
        let mut phase = [0];
        if input.read(&mut phase)? == 0 {
            return Ok(());
        }
        let phase = match phase {
            [0] => Phase::Train,
            [1] => Phase::Evaluate,
            [other] => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("phase {other} does not exist"))),
        };
        let mut rounds = [0; 4];
        input.read_exact(&mut rounds)?;
        receive(net.arena_mut(), input)?;
        match u32::from_le_bytes(rounds) {
            0 => net.run(phase),
            rounds => {
                let timing = net.time(phase, rounds as usize);
                timing.seconds.iter().try_for_each(|seconds| output.write_all(&seconds.to_le_bytes()))?;
                output.write_all(&timing.peak_rss_bytes.unwrap_or(0).to_le_bytes())?;
            }
        }
        send(net.arena(), output)?;
    }
}

/// Asks the server at the other end of the pipes to run `phase` on `arena`.
///
/// # Errors
/// A pipe breaks: the server has ended.
pub fn request(phase: Phase, arena: &mut Arena, to: &mut dyn Write, from: &mut dyn Read) -> io::Result<()> {
    ask(phase, 0, arena, to)?;
    receive(arena, from)
}

/// Asks it to run `phase` on `arena` `rounds` times, at least once, and how long each took there.
///
/// # Errors
/// A pipe breaks: the server has ended.
pub fn request_times(phase: Phase, rounds: u32, arena: &mut Arena, to: &mut dyn Write, from: &mut dyn Read) -> io::Result<Timing> {
    let rounds = rounds.max(1);
    ask(phase, rounds, arena, to)?;
    let mut number = || -> io::Result<[u8; 8]> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes).map(|()| bytes)
    };
    let seconds = (0..rounds).map(|_| number().map(f64::from_le_bytes)).collect::<io::Result<Vec<f64>>>()?;
    let peak = u64::from_le_bytes(number()?);
    receive(arena, from)?;
    Ok(Timing { seconds, peak_rss_bytes: Some(peak).filter(|&peak| peak > 0) })
}

fn ask(phase: Phase, rounds: u32, arena: &Arena, to: &mut dyn Write) -> io::Result<()> {
    let phase = match phase {
        Phase::Train => 0,
        Phase::Evaluate => 1,
    };
    to.write_all(&[phase])?;
    to.write_all(&rounds.to_le_bytes())?;
    send(arena, to)
}

fn everything(arena: &Arena) -> Slot {
    Slot { offset: 0, len: arena.bytes() / 4, element: Element::U32 }
}

fn send(arena: &Arena, to: &mut dyn Write) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(CHUNK);
    for words in arena.words(everything(arena)).chunks(CHUNK / 4) {
        bytes.clear();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        to.write_all(&bytes)?;
    }
    to.flush()
}

fn receive(arena: &mut Arena, from: &mut dyn Read) -> io::Result<()> {
    let slot = everything(arena);
    let mut bytes = vec![0; CHUNK];
    for words in arena.words_mut(slot).chunks_mut(CHUNK / 4) {
        let bytes = &mut bytes[..words.len() * 4];
        from.read_exact(bytes)?;
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    /// Adds one to every word; has no description.
    struct Increment(Arena);

    impl Network for Increment {
        fn manifest(&self) -> &Manifest {
            unreachable!("a server needs no description")
        }
        fn arena(&self) -> &Arena {
            &self.0
        }
        fn arena_mut(&mut self) -> &mut Arena {
            &mut self.0
        }
        fn run(&mut self, phase: Phase) {
            let (by, slot) = (if phase == Phase::Train { 1 } else { 10 }, everything(&self.0));
            self.0.words_mut(slot).iter_mut().for_each(|word| *word += by);
        }
    }

    #[test]
    fn the_arena_goes_there_and_back() {
        let mut arena = Arena::new(3 * CHUNK + 64);
        let slot = everything(&arena);
        arena.words_mut(slot).iter_mut().zip(0..).for_each(|(word, index)| *word = index);
        for (phase, by) in [(Phase::Train, 1), (Phase::Evaluate, 11)] {
            let mut requests = Vec::new();
            let broken = request(phase, &mut arena, &mut requests, &mut io::empty()).expect_err("nobody answers");
            assert_eq!(broken.kind(), io::ErrorKind::UnexpectedEof);
            let mut answers = Vec::new();
            serve(&mut Increment(Arena::new(arena.bytes())), &mut requests.as_slice(), &mut answers).expect("the request is whole");
            receive(&mut arena, &mut answers.as_slice()).expect("the answer is whole");
            assert!(arena.words(slot).iter().zip(0..).all(|(word, index)| *word == index + by));
        }
    }

    #[test]
    fn rounds_are_timed_where_they_run() {
        let mut arena = Arena::new(64);
        let mut requests = Vec::new();
        request_times(Phase::Train, 3, &mut arena, &mut requests, &mut io::empty()).expect_err("nobody answers");
        let mut answers = Vec::new();
        serve(&mut Increment(Arena::new(64)), &mut requests.as_slice(), &mut answers).expect("the request is whole");
        let timing = request_times(Phase::Train, 3, &mut arena, &mut io::sink(), &mut answers.as_slice()).expect("the answer is whole");
        assert!(timing.seconds.len() == 3 && timing.seconds.iter().all(|&seconds| (0.0..1.0).contains(&seconds)), "{timing:?}");
        let slot = everything(&arena);
        assert!(arena.words(slot).iter().all(|&word| word == 3));
    }

    #[test]
    fn unknown_phases_are_refused() {
        let error = serve(&mut Increment(Arena::new(64)), &mut [7].as_slice(), &mut io::sink()).expect_err("no such phase");
        assert_eq!(error.to_string(), "phase 7 does not exist");
    }
}
