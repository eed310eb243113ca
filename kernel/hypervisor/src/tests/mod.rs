//! The whole loop against a scripted guest: exits in, what the guest and the console see out.

mod bench;
mod devices;
mod ends;
mod firmware;
mod instructions;
mod lifecycle;
mod registers;
