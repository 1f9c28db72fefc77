//! Definitions as users write them: good ones, wrong ones and garbage.
//!
//! `good/` holds files that must parse whole, `wrong/` one file of wrong SQL a
//! case, with the message that it gets beside it (`.snap`). To add a case, add
//! a file and run the tests with `INSTA_UPDATE=always`, then read the message as
//! the one would who made the mistake.

mod cases;
mod garbage;
mod good;
mod wrong;
