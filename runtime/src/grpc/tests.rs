//! Services, deadlines and limits over an in-memory network.
