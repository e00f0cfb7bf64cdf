//! Batches to decode one after the other, in stock llama.cpp and in candor alike.

use candor::Session;
use candor::session::Batch;

/// Tokens of any fixture: text, bytes, and more of them than gemma2's sliding window holds.
pub const PROMPT: [i32; 14] = [1, 259, 260, 271, 100, 4, 280, 290, 259, 263, 269, 3, 275, 260];
/// What a fixture may go on with.
pub const ANSWER: [i32; 5] = [265, 40, 270, 259, 288];

/// One token of a batch.
#[derive(Debug, Clone)]
pub struct Token {
    pub id: i32,
    pub position: usize,
    pub seqs: Vec<usize>,
    /// The bank row that steers it.
    pub row: usize,
}

/// A script: `[n_batch][n_token]`.
#[derive(Debug, Clone, Default)]
pub struct Script {
    batches: Vec<Vec<Token>>,
}

impl Script {
    pub fn new() -> Self {
        Self { batches: vec![Vec::new()] }
    }

    /// Adds to the current batch a sequence from its start, steered by one row.
    pub fn sequence(mut self, seq: usize, tokens: &[i32], row: usize) -> Self {
        for (position, &id) in tokens.iter().enumerate() {
            self = self.token(id, position, &[seq], row);
        }
        self
    }

    /// Adds one token to the current batch.
    pub fn token(mut self, id: i32, position: usize, seqs: &[usize], row: usize) -> Self {
        let token = Token { id, position, seqs: seqs.to_vec(), row };
        self.batches.last_mut().expect("a script has a batch").push(token);
        self
    }

    /// Ends the current batch.
    pub fn then(mut self) -> Self {
        self.batches.push(Vec::new());
        self
    }

    /// A prompt of one sequence, then its continuation token by token.
    pub fn conversation(prompt: &[i32], answer: &[i32]) -> Self {
        let script = Self::new().sequence(0, prompt, 0);
        let continue_with = |script: Self, (i, &id): (usize, &i32)| {
            script.then().token(id, prompt.len() + i, &[0], 0)
        };
        answer.iter().enumerate().fold(script, continue_with)
    }

    /// Several sequences of different lengths that share their first two tokens, then two rounds
    /// of one token for each.
    pub fn crowd(tokens: &[i32], n_seq: usize) -> Self {
        let all: Vec<usize> = (0..n_seq).collect();
        let mut script = Self::new().token(tokens[0], 0, &all, 0).token(tokens[1], 1, &all, 0);
        for seq in 0..n_seq {
            for position in 2..4 + seq {
                script = script.token(tokens[position + seq], position, &[seq], 0);
            }
        }
        for round in 0..2 {
            script = script.then();
            for seq in 0..n_seq {
                script = script.token(tokens[seq + round], 4 + seq + round, &[seq], 0);
            }
        }
        script
    }

    /// The same script with the rows that `row(i_batch, i_token)` chooses.
    pub fn steered(&self, row: impl Fn(usize, &Token) -> usize) -> Self {
        let mut script = self.clone();
        for (i_batch, batch) in script.batches.iter_mut().enumerate() {
            for token in batch {
                token.row = row(i_batch, token);
            }
        }
        script
    }

    pub fn batches(&self) -> &[Vec<Token>] {
        &self.batches
    }

    /// Decodes the script in an emptied session and gives the logits of every token of every batch.
    pub fn play(&self, session: &mut Session) -> candor::Result<Vec<Vec<Vec<f32>>>> {
        session.clear();
        self.batches.iter().map(|tokens| decode(session, tokens)).collect()
    }
}

/// A conversation of one sequence, and a crowd of four.
pub fn scripts() -> [Script; 2] {
    [Script::conversation(&PROMPT, &ANSWER), Script::crowd(&PROMPT, 4)]
}

/// Decodes one batch and gives the logits of its tokens.
pub fn decode(session: &mut Session, tokens: &[Token]) -> candor::Result<Vec<Vec<f32>>> {
    let mut batch = Batch::new();
    for token in tokens {
        let i = batch.push(token.id, token.position, &token.seqs);
        batch.steer(i, token.row);
        batch.output(i);
    }
    session.decode(&mut batch)?;
    (0..tokens.len()).map(|i| Ok(session.logits(i)?.to_vec())).collect()
}
