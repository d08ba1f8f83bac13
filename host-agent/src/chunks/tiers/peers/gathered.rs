//! What the owners of a chunk's shards said, and what follows from that. Values in, values out.

use bytes::Bytes;
use chunk_store::ChunkName;

use super::erasure::{NEEDED, SHARDS, Shard, join, split};

/// What one of them said.
#[derive(Debug)]
pub(super) enum Answer {
    /// It has no shard of this chunk.
    Nothing,
    /// It was not waited for: too many others had none. So has it, most likely; and if not, it gets the same again.
    Unheard,
    /// Whatever it has, which nobody has verified.
    Shard(Shard),
    /// Bytes that are no shard of this chunk.
    Lie,
}

/// What they said so far.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// The chunk's, once they gave it.
    pub(crate) body: Option<Bytes>,
    /// By rank among the owners. Who said nothing is not in it.
    answers: Vec<(usize, Answer)>,
}

/// What is to be done, by rank among the owners.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) liars: Vec<usize>,
    /// Shards that nobody has, and who is to have them.
    pub(super) missing: Vec<(usize, Shard)>,
}

impl Gathered {
    /// Hears one of the owners; the body may be there then.
    pub(super) fn add(&mut self, rank: usize, answer: Answer, name: &ChunkName) {
        let news = matches!(answer, Answer::Shard(_));
        self.answers.push((rank, answer));
        if news && self.shards() >= NEEDED {
            let shards: Vec<Shard> =
                self.answers.iter().filter_map(|(_, answer)| answer.shard().cloned()).collect();
            self.body = join(name, &shards);
        }
    }

    /// Shards there are.
    pub(super) fn shards(&self) -> usize {
        self.givers().count()
    }

    /// Who gave them.
    pub(super) fn givers(&self) -> impl Iterator<Item = usize> {
        self.answers.iter().filter(|(_, answer)| answer.shard().is_some()).map(|(rank, _)| *rank)
    }

    /// Whether all that were heard have each another shard, so far as can be told without the body.
    pub(crate) fn is_settled(&self) -> bool {
        // More than were needed are there when the first of them did not fit.
        self.body.is_some() && self.shards() == NEEDED && self.answers.len() == NEEDED
    }

    /// Compares with what the shards of `body` are. An owner gets the shard of its own rank, if nobody has that, so that nodes that
    /// settle the same chunk at the same time agree.
    pub(super) fn settle(&self, body: &Bytes) -> Settled {
        let Some(shards) = split(body) else { return Settled::default() };
        let (mut held, mut wanting) = ([false; SHARDS], Vec::new());
        let mut settled = Settled::default();
        for (rank, answer) in &self.answers {
            match answer {
                Answer::Shard(shard) if shards[shard.index] == *shard => {
                    if std::mem::replace(&mut held[shard.index], true) {
                        wanting.push(*rank);
                    }
                }
                Answer::Nothing | Answer::Unheard => wanting.push(*rank),
                Answer::Shard(_) | Answer::Lie => {
                    settled.liars.push(*rank);
                    wanting.push(*rank);
                }
            }
        }
        let (own, others): (Vec<usize>, Vec<usize>) = wanting.into_iter().partition(|rank| !held[*rank]);
        own.iter().for_each(|rank| held[*rank] = true);
        let left = (0..SHARDS).filter(|index| !held[*index]);
        let given = own.iter().map(|rank| (*rank, *rank)).chain(others.into_iter().zip(left));
        settled.missing = given.map(|(rank, index)| (rank, shards[index].clone())).collect();
        settled
    }
}

impl Answer {
    fn shard(&self) -> Option<&Shard> {
        match self {
            Self::Shard(shard) => Some(shard),
            Self::Nothing | Self::Unheard | Self::Lie => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Bytes {
        (0..100).collect::<Vec<u8>>().into()
    }

    /// What is to be done after these answers: liars, and which shard goes to whom.
    fn check(answers: Vec<(usize, Answer)>) -> (Vec<usize>, Vec<(usize, usize)>) {
        let settled = Gathered { body: None, answers }.settle(&body());
        let missing = settled.missing.iter().map(|(rank, shard)| (*rank, shard.index)).collect();
        (settled.liars, missing)
    }

    /// The shard of that index.
    fn shard(index: usize) -> Answer {
        Answer::Shard(split(&body()).unwrap()[index].clone())
    }

    /// A shard that has this index and is another body's.
    fn false_shard(index: usize) -> Answer {
        Answer::Shard(split(&vec![7; 100].into()).unwrap()[index].clone())
    }

    #[test]
    fn where_nobody_has_any_each_gets_its_own() {
        let answers =
            [3, 0, 4, 1, 2].map(|rank| (rank, if rank == 1 { Answer::Unheard } else { Answer::Nothing }));
        assert_eq!(check(answers.into()), (vec![], vec![(3, 3), (0, 0), (4, 4), (1, 1), (2, 2)]));
    }

    #[test]
    fn who_has_one_keeps_it_and_the_new_owner_gets_what_is_missing() {
        let answers = vec![(0, shard(1)), (1, shard(2)), (2, shard(3)), (3, shard(4)), (4, Answer::Nothing)];
        assert_eq!(check(answers), (vec![], vec![(4, 0)]));
    }

    #[test]
    fn of_two_that_have_the_same_one_gets_another() {
        let answers = vec![(0, shard(0)), (1, shard(0)), (2, shard(2)), (3, shard(3))];
        assert_eq!(check(answers), (vec![], vec![(1, 1)]));
    }

    #[test]
    fn liars_are_told_apart_and_put_right() {
        let answers =
            vec![(0, shard(0)), (1, false_shard(0)), (2, Answer::Lie), (3, shard(3)), (4, false_shard(4))];
        assert_eq!(check(answers), (vec![1, 2, 4], vec![(1, 1), (2, 2), (4, 4)]));
    }

    #[test]
    fn the_body_is_there_when_four_are_or_when_the_fifth_shows_who_lied() {
        let name = ChunkName::of(&body());
        let mut gathered = Gathered::default();
        (0..3).for_each(|index| gathered.add(index, shard(index), &name));
        assert_eq!(gathered.body, None);
        gathered.add(4, shard(4), &name);
        assert_eq!(gathered.body, Some(body()));
        assert!(gathered.is_settled());

        let mut gathered = Gathered::default();
        gathered.add(3, false_shard(3), &name);
        (0..3).for_each(|index| gathered.add(index, shard(index), &name));
        assert_eq!(gathered.body, None);
        gathered.add(4, shard(4), &name);
        assert_eq!(gathered.body, Some(body()));
        assert!(!gathered.is_settled());
    }
}
