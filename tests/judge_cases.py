"""Two things for the judge to tell apart."""

from kerasdiff.demo.scenes import Thing

RED_STAR, BLUE_HEART = Thing("red", "star"), Thing("blue", "heart")
