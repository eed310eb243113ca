#![no_std]
//! (skeleton)
