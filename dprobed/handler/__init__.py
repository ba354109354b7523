"""What is done with the report of a program that ends with ``exit FACILITY``."""
