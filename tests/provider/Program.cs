Console.WriteLine("provider");
