"""Tokens given in place of the target's own, by rates or by a recording, while every pass is decoded for real."""
