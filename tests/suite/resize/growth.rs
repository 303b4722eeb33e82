//! Promise: growth at speed.
