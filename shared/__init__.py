"""What two or more services need and that holds no service's rules."""
