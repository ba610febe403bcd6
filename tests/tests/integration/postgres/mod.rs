//! What only PostgreSQL has: roles, row security, guards in the database, migrations by hand, several hosts. These run on a
//! server whichever backend the rest of the suite runs on.

mod agents;
mod claims;
mod families;
mod guards;
mod hosts;
mod migrate;
mod moves;
mod numbers;
mod objects;
mod plans;
mod roles;
mod round_trips;
mod tls;
