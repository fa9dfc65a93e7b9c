//! Everything that needs a process, a socket, a database or a plugin, against the real binaries. One binary, a room a file.

mod support;

mod account;
mod approvals;
mod attacks;
mod authoring;
mod capabilities;
mod captures;
mod claude;
mod claude_codec;
mod cli;
mod client;
mod contract;
mod doctor;
mod faults;
mod gate;
mod gateway;
mod hooks;
mod hostile;
mod moments;
mod notify;
mod numbers;
mod operator;
mod park;
mod plugin;
mod plugin_life;
mod policy;
mod process;
mod recovery;
mod sessions;
mod shell;
mod standard;
mod store;
mod tidy;
mod top;
mod writing;
